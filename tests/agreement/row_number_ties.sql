-- Places among equals, completed by all columns.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, kind, n, row_number() OVER (PARTITION BY user_id ORDER BY n DESC) AS place
FROM (SELECT user_id, kind, count(*) AS n, sum(amount) AS s FROM events
WHERE user_id IS NOT NULL AND kind IS NOT NULL GROUP BY 1, 2);

-- duckdb v: SELECT user_id, kind, n, row_number() OVER (PARTITION BY user_id ORDER BY n DESC, kind, s NULLS FIRST) AS
--   place FROM (SELECT user_id, kind, count(*) AS n, sum(amount) AS s FROM events WHERE user_id IS NOT NULL
--   AND kind IS NOT NULL GROUP BY 1, 2)
