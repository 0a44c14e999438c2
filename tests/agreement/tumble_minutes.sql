-- Windows of ten minutes.
-- events: shop grid=1
CREATE STREAM events (id BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '10 minutes') AS w, count(*) AS n FROM events GROUP BY 1;
