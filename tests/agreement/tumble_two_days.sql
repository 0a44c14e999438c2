-- Windows of two days.
-- events: shop days=12 grid=30 records=48
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '2 days') AS w, count(DISTINCT user_id) AS users FROM events GROUP BY 1;
