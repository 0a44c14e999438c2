-- Approximate medians and percentiles: counts of buckets add up in any order.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, amount INT, ratio DOUBLE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, approx_median(ratio) AS m, approx_percentile_cont(amount, 0.9) AS p90,
       approx_percentile_cont(0.9) WITHIN GROUP (ORDER BY amount DESC) AS p10
FROM events GROUP BY kind;

-- duckdb v: none
