-- The two dearest users of each day.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, price DECIMAL(18, 2), day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT day, user_id, s, place FROM (
  SELECT day, user_id, s, row_number() OVER (PARTITION BY day ORDER BY s DESC NULLS LAST, user_id) AS place FROM (
    SELECT tumble(at, INTERVAL '1 day') AS day, user_id, sum(price) AS s FROM events GROUP BY 1, 2))
WHERE place <= 2;
