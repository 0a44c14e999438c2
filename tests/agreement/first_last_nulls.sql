-- Where NULLs stand is said.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, first_value(amount ORDER BY amount NULLS FIRST) AS f, last_value(kind ORDER BY amount NULLS LAST) AS l
FROM events GROUP BY user_id;
