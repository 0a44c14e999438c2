-- Exact median and percentile of each window.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, ratio DOUBLE, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '1 day') AS day, median(ratio) AS m,
       percentile_cont(0.75) WITHIN GROUP (ORDER BY ratio) AS p75
FROM events GROUP BY 1;
