-- Days that begin at six.
-- events: shop days=12 grid=30 records=48
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '1 day', INTERVAL '6 hours') AS day, count(*) AS n FROM events GROUP BY 1;
