-- Percentiles without a GROUP BY, merged of many states.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, amount BIGINT, ratio DOUBLE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT percentile_cont(0.9) WITHIN GROUP (ORDER BY ratio) AS p90, median(ratio) AS m,
       percentile_cont(0.1) WITHIN GROUP (ORDER BY amount) AS p10, count(ratio) AS n
FROM events;
