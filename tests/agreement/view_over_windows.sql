-- Days out of hours.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW hours AS
SELECT tumble(at, INTERVAL '1 hour') AS hour, user_id, count(*) AS n, sum(amount) AS s FROM events GROUP BY 1, 2;
CREATE VIEW days AS
SELECT date_trunc('day', hour) AS day, sum(n) AS n, sum(s) AS s, count(DISTINCT user_id) AS users
FROM hours GROUP BY 1;
