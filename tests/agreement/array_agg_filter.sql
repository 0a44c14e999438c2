-- Some values; where there are none, NULL.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, array_agg(amount ORDER BY at) FILTER (WHERE amount > 10) AS much FROM events GROUP BY user_id;
