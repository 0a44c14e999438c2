-- Days of Berlin end where the next begin, 23 or 25 hours later.
-- events: shop from=2024-03-29 days=5 grid=15
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT d, window_end(d) AS e, n FROM (
  SELECT tumble(at, INTERVAL '1 day', timezone => 'Europe/Berlin') AS d, count(*) AS n FROM events GROUP BY 1);

-- plain v: SELECT d, tumble(d + INTERVAL '26 hours', INTERVAL '1 day', timezone => 'Europe/Berlin') AS e, count(*)
--   AS n FROM (SELECT tumble(at, INTERVAL '1 day', timezone => 'Europe/Berlin') AS d FROM events) GROUP BY 1,
--   2
