-- A LIMIT in the middle of equals.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, user_id, count(*) AS n FROM events GROUP BY kind, user_id ORDER BY n LIMIT 4;

-- duckdb v: SELECT kind, user_id, count(*) AS n FROM events GROUP BY kind, user_id ORDER BY n, kind NULLS FIRST,
--   user_id NULLS FIRST LIMIT 4
