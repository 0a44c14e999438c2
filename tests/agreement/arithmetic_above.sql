-- Arithmetic over aggregates.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, price DECIMAL(18, 2), at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, max(amount) - min(amount) AS spread, sum(amount) * 100 / count(*) AS percent,
       CAST(sum(price) AS DOUBLE) / count(*) AS each
FROM events WHERE amount IS NOT NULL GROUP BY user_id;
