-- The median of decimals.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, price DECIMAL(18, 2), at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, median(price) AS m, count(price) AS n FROM events GROUP BY kind;

-- duckdb v: SELECT kind, trunc((quantile_disc(price, 0.5) + quantile_disc(price, 0.5 ORDER BY price DESC)) / 2, 2) AS
--   m, count(price) AS n FROM events GROUP BY kind
