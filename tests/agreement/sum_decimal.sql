-- Money is summed to the cent.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, price DECIMAL(18, 2), at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, sum(price) AS s, sum(-price) AS negative FROM events GROUP BY user_id;
