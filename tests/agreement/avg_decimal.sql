-- Averages of money.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, price DECIMAL(18, 2), at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, avg(price) AS a FROM events GROUP BY kind;
