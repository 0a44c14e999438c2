-- Counts beside sums of some rows.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
WITH a AS (SELECT user_id, count(*) AS n FROM events GROUP BY 1),
     b AS (SELECT user_id, sum(amount) AS s FROM events WHERE kind = 'buy' GROUP BY 1)
SELECT a.user_id, n, s FROM a LEFT JOIN b ON a.user_id = b.user_id;
