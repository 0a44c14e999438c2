-- A NULL passes no HAVING.
-- events: shop records=20
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, count(*) AS n FROM events GROUP BY user_id HAVING sum(amount) > 0;
