-- Lists over groups, in the order of all columns where nothing else is said.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT day, array_agg(user_id) AS users, string_agg(kind, ',' ORDER BY n) AS kinds FROM (
  SELECT tumble(at, INTERVAL '1 day') AS day, user_id, kind, count(*) AS n FROM events GROUP BY 1, 2, 3)
GROUP BY day;

-- duckdb v: SELECT day, array_agg(user_id ORDER BY user_id NULLS FIRST, kind NULLS FIRST, n) AS users,
--   string_agg(kind, ',' ORDER BY n, user_id NULLS FIRST, kind NULLS FIRST) AS kinds FROM ( SELECT tumble(at,
--   INTERVAL '1 day') AS day, user_id, kind, count(*) AS n FROM events GROUP BY 1, 2, 3) GROUP BY day
