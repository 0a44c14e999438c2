-- Users that are not among those who gained much; the list has no NULL.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, n FROM (SELECT user_id, count(*) AS n FROM events GROUP BY 1)
WHERE user_id NOT IN (SELECT user_id FROM events WHERE amount > 15 AND user_id IS NOT NULL GROUP BY 1);
