-- Windows with enough in them.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '8 hours') AS w, count(*) AS n, count(DISTINCT user_id) AS users
FROM events GROUP BY 1 HAVING count(DISTINCT user_id) > 2;
