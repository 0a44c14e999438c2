-- Three days of Berlin, every day, around the day of 25 hours; two months of New York, every month.
-- events: shop from=2024-10-24 days=7 grid=15 records=60
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT hop(at, INTERVAL '1 day', INTERVAL '3 days', timezone => 'Europe/Berlin') AS w,
       window_end(hop(at, INTERVAL '1 day', INTERVAL '3 days', timezone => 'Europe/Berlin')) AS e,
       count(*) AS n, count(DISTINCT user_id) AS users
FROM events GROUP BY 1;
CREATE VIEW months AS
SELECT hop(at, INTERVAL '1 month', INTERVAL '2 months', timezone => 'America/New_York') AS w, count(*) AS n
FROM events GROUP BY 1;

-- plain v: SELECT w, tumble(w + INTERVAL '84 hours', INTERVAL '1 day', timezone => 'Europe/Berlin') AS e, count(*) AS n,
--   count(DISTINCT user_id) AS users FROM (SELECT *, tumble(tumble(at, INTERVAL '1 day', timezone => 'Europe/Berlin') +
--   INTERVAL '12 hours' - back, INTERVAL '1 day', timezone => 'Europe/Berlin') AS w FROM events CROSS JOIN (VALUES
--   (INTERVAL '0 days'), (INTERVAL '1 days'), (INTERVAL '2 days')) AS hops(back)) GROUP BY 1, 2
-- plain months: SELECT w, count(*) AS n FROM (SELECT *, tumble(tumble(at, INTERVAL '1 month', timezone =>
--   'America/New_York') + INTERVAL '15 days' - back, INTERVAL '1 month', timezone => 'America/New_York') AS w FROM
--   events CROSS JOIN (VALUES (INTERVAL '0 days'), (INTERVAL '30 days')) AS hops(back)) GROUP BY 1
