-- A percentile as a window function, growing row by row.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, n, percentile_cont(n, 0.4) OVER (ORDER BY user_id ROWS UNBOUNDED PRECEDING) AS p
FROM (SELECT user_id, count(*) AS n FROM events WHERE user_id IS NOT NULL GROUP BY 1);

-- duckdb v: SELECT user_id, n, quantile_cont(n, 0.4) OVER (ORDER BY user_id ROWS UNBOUNDED PRECEDING) AS p FROM
--   (SELECT user_id, count(*) AS n FROM events WHERE user_id IS NOT NULL GROUP BY 1)
