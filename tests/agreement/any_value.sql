-- Any value is the first of the log that is one.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, any_value(kind) AS some_kind FROM events GROUP BY user_id;

-- duckdb v: SELECT user_id, first(kind ORDER BY _partition, _offset) FILTER (WHERE kind IS NOT NULL) AS some_kind
--   FROM events GROUP BY user_id
