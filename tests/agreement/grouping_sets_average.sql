-- Averages over several groupings.
-- events: shop
CREATE STREAM events (
  id BIGINT NOT NULL, kind TEXT, amount BIGINT, price DECIMAL(18, 2), member BOOLEAN, at TIMESTAMPTZ NOT NULL
)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT member, kind, avg(amount) AS a, avg(price) AS p FROM events GROUP BY GROUPING SETS ((member), (kind));
