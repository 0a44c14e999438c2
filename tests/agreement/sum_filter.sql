-- A sum where no row passes is NULL, not 0.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, price DECIMAL(18, 2), at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, sum(amount) FILTER (WHERE amount > 15) AS much, sum(price) FILTER (WHERE price < 0) AS never
FROM events GROUP BY user_id;
