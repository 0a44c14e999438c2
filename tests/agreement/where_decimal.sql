-- A filter by money.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, price DECIMAL(18, 2), at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, count(*) AS n, min(price) AS least FROM events WHERE price > 50000000.01 GROUP BY user_id;
