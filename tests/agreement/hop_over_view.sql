-- Hops over the rows of views and of a subquery: with their ends, in order, with gaps between them, over times that may
-- be missing.
-- events: shop days=6
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, day DATE, amount INT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW days AS
SELECT user_id, tumble(at, INTERVAL '1 day') AS today, count(*) AS n, sum(amount) AS s FROM events GROUP BY 1, 2;
CREATE VIEW spans AS
SELECT user_id, hop(today, INTERVAL '1 day', INTERVAL '3 days') AS w,
       window_end(hop(today, INTERVAL '1 day', INTERVAL '3 days')) AS e, sum(n) AS n, sum(s) AS s,
       array_agg(n ORDER BY today DESC) AS ns
FROM days GROUP BY 1, 2 HAVING sum(n) > 1;
CREATE VIEW clicks AS SELECT id, user_id, day FROM events;
CREATE VIEW every_other AS
SELECT hop(day, INTERVAL '2 days', INTERVAL '1 day') AS w, count(*) AS n, count(DISTINCT user_id) AS users
FROM clicks GROUP BY 1;
CREATE VIEW of_hours AS
SELECT w, max(n) AS most FROM (
  SELECT hop(h, INTERVAL '2 hours', INTERVAL '5 hours') AS w, sum(n) AS n
  FROM (SELECT tumble(at, INTERVAL '1 hour') AS h, user_id, count(*) AS n FROM events GROUP BY 1, 2) GROUP BY 1)
GROUP BY 1;

-- plain spans: SELECT user_id, w, w + INTERVAL '3 days' AS e, sum(n) AS n, sum(s) AS s, array_agg(n ORDER BY today DESC)
--   AS ns FROM (SELECT *, tumble(today, INTERVAL '1 day') - back AS w FROM days CROSS JOIN (VALUES (INTERVAL '0 days'),
--   (INTERVAL '1 days'), (INTERVAL '2 days')) AS hops(back)) GROUP BY user_id, w HAVING sum(n) > 1
-- plain every_other: SELECT w, count(*) AS n, count(DISTINCT user_id) AS users FROM (SELECT *, tumble(day, INTERVAL '2
--   days') AS w FROM clicks) WHERE day IS NULL OR day = w GROUP BY w
-- plain of_hours: SELECT w, sum(n) AS most FROM (SELECT *, tumble(at, INTERVAL '2 hours') - back AS w FROM (SELECT at, 1
--   AS n FROM events) CROSS JOIN (VALUES (INTERVAL '0 hours'), (INTERVAL '2 hours'), (INTERVAL '4 hours')) AS hops(back))
--   WHERE at < w + INTERVAL '5 hours' GROUP BY w
-- duckdb spans: SELECT user_id, w, w + INTERVAL '3 days' AS e, sum(n) AS n, sum(s) AS s, array_agg(n ORDER BY today DESC)
--   AS ns FROM (SELECT *, tumble(today, INTERVAL '1 day') - back AS w FROM days CROSS JOIN (VALUES (INTERVAL '0 days'),
--   (INTERVAL '1 days'), (INTERVAL '2 days')) AS hops(back)) GROUP BY user_id, w HAVING sum(n) > 1
