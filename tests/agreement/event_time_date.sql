-- A DATE as event time.
-- event 0 @2024-01-30T00:00:00Z: {"n": 1, "at": "2024-01-30"}
-- event 1 @2024-01-31T10:00:00Z: {"n": 2, "at": "2024-01-31"}
-- event 0 @2024-02-01T10:00:00Z: {"n": 3, "at": "2024-02-01"}
-- event 0 @2024-02-03T10:00:00Z: {"n": 4, "at": "2024-01-31"}
-- event 0 @2024-02-04T10:00:00Z: {"n": 5, "at": "2024-02-04"}
-- event 0 @2024-02-04T11:00:00Z: {"n": 6, "at": "2024-02-01"}
CREATE STREAM events (n BIGINT, at DATE NOT NULL) WITH (event_time = 'at', lateness = '2 days', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '1 month') AS month, count(*) AS c, min(at) AS first FROM events GROUP BY 1;
