-- First and last by time; equal times are ordered by the log.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, first_value(kind ORDER BY at) AS first, last_value(amount ORDER BY at) AS last
FROM events GROUP BY user_id;
