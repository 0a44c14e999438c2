-- NaN is one key.
-- event 0: {"k": "a", "x": 0, "y": 0, "at": "2024-01-10T00:00:00Z"}
-- event 1: {"k": "a", "x": 1.5, "y": 1, "at": "2024-01-10T00:00:00Z"}
-- event 2: {"k": "a", "x": -0.0, "y": 1, "at": "2024-01-10T00:00:00Z"}
-- event 0: {"k": "b", "x": 0, "y": 1, "at": "2024-01-10T00:00:00Z"}
-- event 1: {"k": "b", "x": -0.0, "y": 2, "at": "2024-01-10T00:00:00Z"}
-- event 2: {"k": "b", "x": null, "y": 1, "at": "2024-01-10T00:00:00Z"}
-- event 0: {"k": "c", "x": 1, "y": 0, "at": "2024-01-10T00:00:00Z"}
-- event 1: {"k": "c", "x": 2, "y": 1, "at": "2024-01-10T00:00:00Z"}
-- event 2: {"k": "d", "x": 1, "y": 0, "at": "2024-01-10T00:00:00Z"}
-- event 0: {"k": "d", "x": -1, "y": 0, "at": "2024-01-10T00:00:00Z"}
-- event 1: {"k": "a", "x": 0, "y": 0, "at": "2024-01-10T00:00:00Z"}
CREATE STREAM events (k TEXT, x DOUBLE, y DOUBLE, at TIMESTAMPTZ NOT NULL) WITH (event_time = 'at', partitions = 3);

CREATE VIEW v AS
SELECT x / y AS q, count(*) AS n FROM events WHERE x <> 0 OR y = 0 GROUP BY 1;
