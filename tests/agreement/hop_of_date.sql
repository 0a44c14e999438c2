-- Windows of days over a DATE.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT hop(day, INTERVAL '1 day', INTERVAL '2 days') AS w, count(*) AS n FROM events WHERE day IS NOT NULL GROUP BY 1;

-- plain v: SELECT w, count(*) AS n FROM (SELECT tumble(day, INTERVAL '1 day') - back AS w FROM events CROSS JOIN
--   (VALUES (INTERVAL '0 days'), (INTERVAL '1 day')) AS hops(back) WHERE day IS NOT NULL) GROUP BY 1
