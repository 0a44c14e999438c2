-- Beyond its horizon a key counts again; in another partition it always does.
-- event 0: {"k": "a", "n": 1, "at": "2024-01-10T00:00:00Z"}
-- event 0: {"k": "a", "n": 2, "at": "2024-01-10T00:00:59Z"}
-- event 0: {"k": "a", "n": 3, "at": "2024-01-10T00:01:00Z"}
-- event 1: {"k": "a", "n": 4, "at": "2024-01-10T00:00:30Z"}
-- event 0: {"k": "b", "n": 5, "at": "2024-01-10T00:01:01Z"}
-- event 0: {"k": "a", "n": 6, "at": "2024-01-10T00:01:59Z"}
-- event 2: {"k": "a", "n": 7, "at": "2024-01-10T00:00:00Z"}
CREATE STREAM events (k TEXT NOT NULL, n BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', unique_key = 'k', unique_within = '60 seconds', partitions = 3);

CREATE VIEW v AS
SELECT k, count(*) AS c, array_agg(n ORDER BY n) AS ns FROM events GROUP BY k;
