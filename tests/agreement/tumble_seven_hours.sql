-- Windows that no day is a multiple of.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, price DECIMAL(18, 2), at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '7 hours') AS w, count(*) AS n, max(price) AS dearest FROM events GROUP BY 1;
