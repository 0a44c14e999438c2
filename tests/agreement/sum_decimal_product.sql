-- Price times quantity.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, amount BIGINT, price DECIMAL(18, 2), at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, sum(price * amount) AS revenue FROM events GROUP BY kind;
