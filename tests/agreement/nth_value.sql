-- The second and the third.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, nth_value(kind, 2 ORDER BY at) AS second, nth_value(amount, 3 ORDER BY at) AS third
FROM events GROUP BY user_id;
