-- Windows of a day.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '1 day') AS day, user_id, count(*) AS n FROM events GROUP BY 1, 2;
