-- The most frequent kinds of each window.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT w, place, kind, n FROM (
  SELECT w, kind, n, row_number() OVER (PARTITION BY w ORDER BY n DESC, kind) AS place FROM (
    SELECT hop(at, INTERVAL '12 hours', INTERVAL '1 day') AS w, kind, count(*) AS n
    FROM events WHERE kind IS NOT NULL GROUP BY 1, 2))
WHERE place <= 2;

-- plain v: SELECT w, place, kind, n FROM (SELECT w, kind, n, row_number() OVER (PARTITION BY w ORDER BY n DESC,
--   kind) AS place FROM (SELECT w, kind, count(*) AS n FROM (SELECT *, tumble(at, INTERVAL '12 hours') - back
--   AS w FROM events CROSS JOIN (VALUES (INTERVAL '0 hours'), (INTERVAL '12 hours')) AS hops(back)) WHERE at
--   < w + INTERVAL '1 day' AND kind IS NOT NULL GROUP BY 1, 2)) WHERE place <= 2
