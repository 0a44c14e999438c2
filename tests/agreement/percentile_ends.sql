-- The least and the greatest percentile.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, ratio DOUBLE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, percentile_cont(0.0) WITHIN GROUP (ORDER BY ratio) AS p0,
       percentile_cont(1.0) WITHIN GROUP (ORDER BY ratio) AS p100
FROM events GROUP BY user_id;
