-- First, last and all of windows that overlap.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, amount BIGINT, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT hop(at, INTERVAL '12 hours', INTERVAL '1 day') AS w, first_value(id ORDER BY at) AS first,
       last_value(kind ORDER BY at) AS last, array_agg(amount ORDER BY at) AS amounts
FROM events GROUP BY 1;

-- plain v: SELECT w, first_value(id ORDER BY at) AS first, last_value(kind ORDER BY at) AS last, array_agg(amount
--   ORDER BY at) AS amounts FROM (SELECT *, tumble(at, INTERVAL '12 hours') - back AS w FROM events CROSS
--   JOIN (VALUES (INTERVAL '0 hours'), (INTERVAL '12 hours')) AS hops(back)) WHERE at < w + INTERVAL '1 day'
--   GROUP BY 1
