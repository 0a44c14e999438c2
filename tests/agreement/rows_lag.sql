-- The time since the click before, with equal times in different partitions.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW clicks WITH (key = 'user_id') AS SELECT user_id, id, at FROM events;
CREATE VIEW steps AS
SELECT user_id, id, lag(id) OVER (PARTITION BY user_id ORDER BY at) AS before,
       count(*) OVER (PARTITION BY user_id ORDER BY at ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS n
FROM clicks;

-- duckdb steps: SELECT user_id, id, lag(id) OVER (PARTITION BY user_id ORDER BY at, id) AS before, count(*) OVER
--   (PARTITION BY user_id ORDER BY at, id ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS n FROM clicks
