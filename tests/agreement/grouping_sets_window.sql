-- A window in one of the groupings.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, tumble(at, INTERVAL '1 day') AS d, count(*) AS n
FROM events GROUP BY GROUPING SETS ((kind, tumble(at, INTERVAL '1 day')), (kind), ());
