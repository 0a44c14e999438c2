-- Extremes of integers.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, big BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, min(amount) AS lo, max(amount) AS hi, min(big) AS big_lo, max(big) AS big_hi FROM events
GROUP BY user_id;
