-- Truths as they stand.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, member BOOLEAN, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, count(*) AS n FROM events WHERE member IS NOT TRUE GROUP BY user_id;
