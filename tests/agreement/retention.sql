-- Windows older than the retention are hidden, counted from the newest event.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v WITH (retention = '24 hours') AS
SELECT tumble(at, INTERVAL '1 hour') AS hour, count(*) AS n FROM events GROUP BY 1;

-- plain v: SELECT hour, n FROM (SELECT tumble(at, INTERVAL '1 hour') AS hour, count(*) AS n FROM events GROUP BY 1)
--   WHERE hour >= (SELECT max(at) FROM events_log) - INTERVAL '24 hours'
