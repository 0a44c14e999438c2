-- The rows of a stream by way of a subquery.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT k, sum(a) AS s FROM (SELECT lower(kind) AS k, amount * 2 AS a FROM events WHERE amount IS NOT NULL) GROUP BY k;
