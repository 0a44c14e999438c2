-- The last known value.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, price DECIMAL(18, 2), at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, last_value(kind ORDER BY at) FILTER (WHERE kind IS NOT NULL) AS last_kind,
       last_value(price ORDER BY at) FILTER (WHERE kind = 'buy') AS last_price
FROM events GROUP BY user_id;
