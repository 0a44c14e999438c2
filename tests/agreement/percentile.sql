-- Exact percentiles, between values.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, ratio DOUBLE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, percentile_cont(0.9) WITHIN GROUP (ORDER BY ratio) AS p90,
       percentile_cont(0.25) WITHIN GROUP (ORDER BY ratio) AS p25
FROM events GROUP BY kind;
