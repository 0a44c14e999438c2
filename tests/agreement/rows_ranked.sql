-- The newest two rows of each user, with equal times in different partitions.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW clicks WITH (key = 'user_id') AS SELECT user_id, id, kind, at FROM events;
CREATE VIEW newest AS
SELECT user_id, id, kind, at FROM clicks QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY at DESC) <= 2;

-- duckdb newest: SELECT user_id, id, kind, at FROM clicks QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY at
--   DESC, id, kind NULLS FIRST) <= 2
