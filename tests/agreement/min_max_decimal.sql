-- Extremes of decimals.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, price DECIMAL(18, 2), at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, min(price) AS lo, max(price) AS hi FROM events GROUP BY kind;
