-- Weeks that begin on Sunday.
-- events: shop days=40
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '7 days', INTERVAL '-1 day') AS week, count(*) AS n FROM events GROUP BY 1;
