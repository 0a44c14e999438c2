-- The day before and the day after.
-- events: shop days=9
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT day, n, lag(n) OVER (ORDER BY day) AS before, lead(n, 2, 0) OVER (ORDER BY day) AS later, n - lag(n, 1,
  0) OVER (ORDER BY day) AS more
FROM (SELECT tumble(at, INTERVAL '1 day') AS day, count(*) AS n FROM events GROUP BY 1);
