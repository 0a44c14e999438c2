-- Different values in their own order.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, array_agg(DISTINCT user_id) AS users FROM events GROUP BY kind;

-- duckdb v: SELECT kind, array_agg(DISTINCT user_id ORDER BY user_id NULLS LAST) AS users FROM events GROUP BY kind
