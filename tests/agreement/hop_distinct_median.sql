-- Different values and the median of windows that overlap.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, ratio DOUBLE, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, hop(at, INTERVAL '8 hours', INTERVAL '1 day') AS w, count(DISTINCT user_id) AS users, median(ratio) AS m
FROM events GROUP BY 1, 2;

-- plain v: SELECT kind, w, count(DISTINCT user_id) AS users, median(ratio) AS m FROM (SELECT *, tumble(at, INTERVAL
--   '8 hours') - back AS w FROM events CROSS JOIN (VALUES (INTERVAL '0 hours'), (INTERVAL '8 hours'),
--   (INTERVAL '16 hours')) AS hops(back)) WHERE at < w + INTERVAL '1 day' GROUP BY 1, 2
