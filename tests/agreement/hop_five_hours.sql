-- Windows of five hours, one every hour.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, hop(at, INTERVAL '1 hour', INTERVAL '5 hours') AS w, count(*) AS n, sum(amount) AS s
FROM events GROUP BY 1, 2;

-- plain v: SELECT user_id, w, count(*) AS n, sum(amount) AS s FROM (SELECT *, tumble(at, INTERVAL '1 hour') - back
--   AS w FROM events CROSS JOIN (VALUES (INTERVAL '0 hours'), (INTERVAL '1 hours'), (INTERVAL '2 hours'),
--   (INTERVAL '3 hours'), (INTERVAL '4 hours')) AS hops(back)) WHERE at < w + INTERVAL '5 hours' GROUP BY 1,
--   2
