-- A key that is computed.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT upper(kind) AS k, sum(amount + 1) FILTER (WHERE amount > 0) AS s
FROM events WHERE user_id <> 'u1' GROUP BY 1 HAVING count(*) > 2;
