-- Event times as milliseconds.
-- event 0 @2024-01-10T00:00:10Z: {"n": 1, "at": 1704844810001}
-- event 1 @2024-01-10T00:00:10Z: {"n": 2, "at": 1704844810999}
-- event 0 @2024-01-10T00:00:11Z: {"n": 3, "at": 1704844811000}
CREATE STREAM events (n BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', event_time_format = 'unix_ms', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '1 second') AS w, sum(n) AS s FROM events GROUP BY 1;

-- duckdb v: none
