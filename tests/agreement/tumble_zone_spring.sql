-- Days of Berlin around the day of 23 hours.
-- events: shop from=2024-03-29 days=5 grid=15 records=60
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '1 day', timezone => 'Europe/Berlin') AS day, count(*) AS n FROM events GROUP BY 1;
