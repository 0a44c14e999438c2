-- One column aggregated in two types: cast in a subquery, as names of aggregates leave casts out.
-- events: shop
CREATE STREAM events (
  id BIGINT NOT NULL, user_id TEXT, kind TEXT, amount INT, price DECIMAL(18, 2), ratio DOUBLE, at TIMESTAMPTZ NOT NULL
)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

-- duckdb v: SELECT kind, median(amount) AS whole, median(CAST(amount AS DOUBLE)) AS exact,
--   sum(amount) AS total, sum(CAST(amount AS DOUBLE)) AS doubled FROM events GROUP BY kind
CREATE VIEW v AS
SELECT kind, median(amount) AS whole, median(double) AS exact, sum(amount) AS total, sum(double) AS doubled
FROM (SELECT kind, amount, CAST(amount AS DOUBLE) AS double FROM events)
GROUP BY kind;
