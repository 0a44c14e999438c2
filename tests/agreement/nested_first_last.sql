-- First and last of groups with equal counts.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT n, first_value(user_id ORDER BY s) AS least, last_value(user_id ORDER BY n) AS last FROM (
  SELECT user_id, count(*) AS n, sum(amount) AS s FROM events WHERE user_id IS NOT NULL GROUP BY user_id) GROUP BY n;

-- duckdb v: SELECT n, first(user_id ORDER BY s, user_id, n) AS least, last(user_id ORDER BY n, user_id, s) AS last
--   FROM ( SELECT user_id, count(*) AS n, sum(amount) AS s FROM events WHERE user_id IS NOT NULL GROUP BY
--   user_id) GROUP BY n
