-- The same window with late rows and without.
-- events: shop records=80
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW kept WITH (late = 'keep') AS
SELECT tumble(at, INTERVAL '1 day') AS day, count(*) AS n FROM events GROUP BY 1;
CREATE VIEW dropped AS
SELECT tumble(at, INTERVAL '1 day') AS day, count(*) AS n FROM events GROUP BY 1;
CREATE VIEW lost AS
SELECT kept.day, kept.n - coalesce(dropped.n, 0) AS late FROM kept LEFT JOIN dropped ON kept.day = dropped.day;
