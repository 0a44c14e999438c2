-- The ends of DECIMAL(38, 2).
-- event 0: {"k": "a", "d": "999999999999999999999999999999999999.99", "at": "2024-01-10T00:00:00Z"}
-- event 1: {"k": "a", "d": "-999999999999999999999999999999999999.99", "at": "2024-01-10T00:00:00Z"}
-- event 2: {"k": "b", "d": "0.01", "at": "2024-01-10T00:00:00Z"}
-- event 0: {"k": "b", "d": "12345678901234567890.12", "at": "2024-01-10T00:00:00Z"}
CREATE STREAM events (k TEXT, d DECIMAL(38, 2), at TIMESTAMPTZ NOT NULL) WITH (event_time = 'at', partitions = 3);

CREATE VIEW v AS
SELECT k, min(d) AS lo, max(d) AS hi, count(DISTINCT d) AS different FROM events GROUP BY k;
