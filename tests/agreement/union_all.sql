-- Two lists under each other, with what is in both twice.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, 'much' AS what FROM events GROUP BY 1 HAVING count(*) > 5
UNION ALL SELECT user_id, 'rich' FROM events GROUP BY 1 HAVING sum(amount) > 0;
