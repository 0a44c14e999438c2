-- A JSON number keeps every digit on its way to a decimal; DuckDB reads it as a double.
-- event 0: {"k": "a", "d": 12345678901234567890.12, "at": "2024-01-10T00:00:00Z"}
-- event 1: {"k": "a", "d": 12345678901234567890.13, "at": "2024-01-10T00:00:00Z"}
CREATE STREAM events (k TEXT, d DECIMAL(38, 2), at TIMESTAMPTZ NOT NULL) WITH (event_time = 'at', partitions = 3);

CREATE VIEW v AS
SELECT d, count(*) AS n FROM events GROUP BY d;

-- duckdb v: none
