-- INT is summed as BIGINT.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount INT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, sum(amount) AS s, sum(amount * 2000000000) AS beyond_int FROM events GROUP BY user_id;

-- duckdb v: SELECT user_id, sum(amount) AS s, sum(CAST(amount AS BIGINT) * 2000000000) AS beyond_int FROM events
--   GROUP BY user_id
