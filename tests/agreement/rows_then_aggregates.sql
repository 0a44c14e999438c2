-- Aggregates over a view of rows, above what is stored.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW gains WITH (key = 'user_id') AS SELECT user_id, id, amount, at FROM events WHERE amount > 0;
CREATE VIEW by_user AS SELECT user_id, count(*) AS n, sum(amount) AS s, array_agg(id ORDER BY at) AS ids
FROM gains GROUP BY user_id;

-- duckdb by_user: SELECT user_id, count(*) AS n, sum(amount) AS s, array_agg(id ORDER BY at, user_id, id, amount) AS ids
--   FROM gains GROUP BY user_id
