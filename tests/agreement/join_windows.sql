-- Each day beside the day before.
-- events: shop days=8
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
WITH d AS (SELECT tumble(at, INTERVAL '1 day') AS day, count(*) AS n FROM events GROUP BY 1)
SELECT today.day, today.n, yesterday.n AS before
FROM d AS today LEFT JOIN d AS yesterday ON yesterday.day = today.day - INTERVAL '1 day';
