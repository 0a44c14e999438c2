-- Sums and averages of different values.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, amount BIGINT, price DECIMAL(18, 2), at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, sum(DISTINCT amount) AS s, avg(DISTINCT amount) AS a, sum(DISTINCT price) AS p FROM events GROUP BY kind;
