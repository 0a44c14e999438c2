-- Hours and days in one list.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT 'hour' AS length, tumble(at, INTERVAL '1 hour') AS w, count(*) AS n FROM events GROUP BY 2
UNION ALL SELECT 'day', tumble(at, INTERVAL '1 day'), count(*) FROM events GROUP BY 2;
