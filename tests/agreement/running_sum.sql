-- Running sums by rows.
-- events: shop days=9
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT day, n, sum(n) OVER (ORDER BY day ROWS UNBOUNDED PRECEDING) AS running,
       avg(n) OVER (ORDER BY day ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS moving
FROM (SELECT tumble(at, INTERVAL '1 day') AS day, count(*) AS n FROM events GROUP BY 1);
