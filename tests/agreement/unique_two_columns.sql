-- A unique key of two columns.
-- event 0: {"a": "x", "b": 9007199254740993, "at": "2024-01-10T00:00:00Z"}
-- event 0: {"a": "x", "b": 9007199254740992, "at": "2024-01-10T00:00:01Z"}
-- event 0: {"a": "x", "b": 9007199254740993, "at": "2024-01-10T00:00:02Z"}
-- event 0: {"a": "y", "b": 9007199254740993, "at": "2024-01-10T00:00:03Z"}
-- event 1: {"a": "x", "b": 9007199254740993, "at": "2024-01-10T00:00:00Z"}
CREATE STREAM events (a TEXT NOT NULL, b BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', unique_key = 'a, b', unique_within = '1 hour', partitions = 3);

CREATE VIEW v AS
SELECT a, b, count(*) AS n FROM events GROUP BY a, b;
