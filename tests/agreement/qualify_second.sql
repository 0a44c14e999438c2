-- The second different kind of each user, by its first time.
-- events: shop grid=720
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, kind, first FROM (SELECT user_id, kind, min(at) AS first FROM events GROUP BY 1, 2)
QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY first) = 2;

-- duckdb v: SELECT user_id, kind, first FROM (SELECT user_id, kind, min(at) AS first FROM events GROUP BY 1, 2)
--   QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY first, kind NULLS FIRST) = 2
