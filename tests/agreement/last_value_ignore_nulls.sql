-- The last value that is one.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, last_value(kind ORDER BY at) IGNORE NULLS AS last_kind FROM events GROUP BY user_id;

-- duckdb v: SELECT user_id, last(kind ORDER BY at, _partition, _offset) FILTER (WHERE kind IS NOT NULL) AS last_kind
--   FROM events GROUP BY user_id
