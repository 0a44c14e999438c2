-- Months of New York.
-- events: shop from=2024-02-20 days=60 grid=60
CREATE STREAM events (id BIGINT NOT NULL, price DECIMAL(18, 2), at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '1 month', timezone => 'America/New_York') AS month, count(*) AS n, sum(price) AS s
FROM events GROUP BY 1;
