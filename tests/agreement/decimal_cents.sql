-- Cents of large amounts: DECIMAL(18, 2) to its last digit.
-- event 0: {"k": "a", "d": "9999999999999999.99", "at": "2024-01-10T00:00:00Z"}
-- event 1: {"k": "a", "d": "9999999999999999.99", "at": "2024-01-10T00:00:00Z"}
-- event 2: {"k": "a", "d": 0.01, "at": "2024-01-10T00:00:00Z"}
-- event 0: {"k": "a", "d": "9999999999999999.98", "at": "2024-01-10T00:00:00Z"}
-- event 1: {"k": "b", "d": "-0.01", "at": "2024-01-10T00:00:00Z"}
-- event 2: {"k": "b", "d": null, "at": "2024-01-10T00:00:00Z"}
CREATE STREAM events (k TEXT, d DECIMAL(18, 2), at TIMESTAMPTZ NOT NULL) WITH (event_time = 'at', partitions = 3);

CREATE VIEW v AS
SELECT k, sum(d) AS s, max(d) AS hi, avg(d) AS a FROM events GROUP BY k;
