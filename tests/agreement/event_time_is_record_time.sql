-- Without an event time the record time is it.
-- event 0 @2024-01-10T00:00:10Z: {"n": 1}
-- event 1 @2024-01-10T00:00:10Z: {"n": 2}
-- event 0 @2024-01-10T00:01:10Z: {"n": 3}
-- event 2 @2024-01-10T00:01:09Z: {"n": 4}
-- event 0 @2024-01-10T00:00:50Z: {"n": 5}
CREATE STREAM events (n BIGINT) WITH (partitions = 3);

CREATE VIEW v AS
SELECT tumble(_record_time, INTERVAL '1 minute') AS w, count(*) AS c, last_value(n ORDER BY _record_time) AS l
FROM events GROUP BY 1;
