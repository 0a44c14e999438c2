-- Seven days, every day.
-- events: shop days=12
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT hop(at, INTERVAL '1 day', INTERVAL '7 days') AS w, count(*) AS n, count(DISTINCT user_id) AS users
FROM events GROUP BY 1;

-- plain v: SELECT w, count(*) AS n, count(DISTINCT user_id) AS users FROM (SELECT *, tumble(at, INTERVAL '1 day') -
--   back AS w FROM events CROSS JOIN (VALUES (INTERVAL '0 days'), (INTERVAL '1 days'), (INTERVAL '2 days'),
--   (INTERVAL '3 days'), (INTERVAL '4 days'), (INTERVAL '5 days'), (INTERVAL '6 days')) AS hops(back)) WHERE
--   at < w + INTERVAL '7 days' GROUP BY 1
