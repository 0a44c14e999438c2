-- The one before among equals.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, n, lag(user_id) OVER (ORDER BY n) AS before FROM (
  SELECT user_id, count(*) AS n FROM events WHERE user_id IS NOT NULL GROUP BY 1);

-- duckdb v: SELECT user_id, n, lag(user_id) OVER (ORDER BY n, user_id) AS before FROM (SELECT user_id, count(*) AS n
--   FROM events WHERE user_id IS NOT NULL GROUP BY 1)
