-- Windows of a DATE are DATEs.
-- events: shop days=30
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(day, INTERVAL '7 days') AS week, kind, count(*) AS n FROM events GROUP BY 1, 2;
