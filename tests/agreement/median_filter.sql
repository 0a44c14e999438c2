-- The median of some rows.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, ratio DOUBLE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, median(ratio) FILTER (WHERE ratio > 0) AS m FROM events GROUP BY user_id;
