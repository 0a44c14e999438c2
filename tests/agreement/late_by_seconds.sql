-- Exactly as late as allowed is not late.
-- event 0 @2024-01-10T00:01:40Z: {"n": 1, "at": "2024-01-10T00:01:38Z"}
-- event 0 @2024-01-10T00:01:41Z: {"n": 2, "at": "2024-01-10T00:08:20Z"}
-- event 0 @2024-01-10T00:01:42Z: {"n": 3, "at": "2024-01-10T00:01:35Z"}
-- event 0 @2024-01-10T00:02:40Z: {"n": 4, "at": "2024-01-10T00:01:36Z"}
-- event 1 @2024-01-10T00:02:40Z: {"n": 5, "at": "2024-01-10T00:00:01Z"}
-- event 1 @2024-01-10T00:02:41Z: {"n": 6, "at": "2024-01-10T00:00:59Z"}
CREATE STREAM events (n BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '10 seconds', max_skew = '5 seconds', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '1 minute') AS w, count(*) AS n, array_agg(n ORDER BY at) AS ns FROM events GROUP BY 1;
