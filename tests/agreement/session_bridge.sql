-- A row out of order unites what others began, over partitions and over the end of a day.
-- event 0: {"user_id": "a", "n": 1, "at": "2024-01-10T23:30:00Z"}
-- event 1: {"user_id": "a", "n": 2, "at": "2024-01-11T01:10:00Z"}
-- event 2: {"user_id": "a", "n": 4, "at": "2024-01-11T02:00:00Z"}
-- event 0: {"user_id": "b", "n": 8, "at": "2024-01-11T00:10:00Z"}
-- event 2: {"user_id": "a", "n": 16, "at": "2024-01-11T00:20:00Z"}
-- event 1: {"user_id": "a", "n": 32, "at": "2024-01-10T22:00:00Z"}
-- event 0: {"user_id": "a", "n": 64, "at": "2024-01-10T22:45:00Z"}
CREATE STREAM events (user_id TEXT, n BIGINT, at TIMESTAMPTZ NOT NULL) WITH (event_time = 'at', partitions = 3);

CREATE VIEW v AS
SELECT user_id, session(at, INTERVAL '1 hour') AS w, window_end(session(at, INTERVAL '1 hour')) AS e, sum(n) AS s
FROM events GROUP BY 1, 2;

-- plain v: SELECT user_id, min(at) AS w, max(at) + INTERVAL '1 hour' AS e, sum(n) AS s FROM (SELECT *, sum(begins)
--   OVER (PARTITION BY user_id ORDER BY at, _partition, _offset ROWS UNBOUNDED PRECEDING) AS number FROM
--   (SELECT *, CASE WHEN at < lag(at) OVER (PARTITION BY user_id ORDER BY at, _partition, _offset) + INTERVAL
--   '1 hour' THEN 0 ELSE 1 END AS begins FROM (SELECT * FROM events))) GROUP BY user_id, number
