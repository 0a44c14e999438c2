-- Sums of doubles that are exact: multiples of a quarter.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, ratio DOUBLE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, sum(ratio) AS s FROM events GROUP BY user_id;
