-- Sessions over the rows of views: by a key, by a key of doubles, of days that may be missing, and of sessions.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, day DATE, ratio DOUBLE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW clicks AS SELECT id, user_id, day, CAST(id % 3 AS DOUBLE) * -1.0 AS third, at FROM events;
CREATE VIEW visits AS
SELECT user_id, session(at, INTERVAL '3 hours') AS w, window_end(session(at, INTERVAL '3 hours')) AS e, count(*) AS n
FROM clicks GROUP BY 1, 2;
CREATE VIEW thirds AS
SELECT third + 0.0 AS third, session(at, INTERVAL '2 hours') AS w, count(*) AS n FROM clicks GROUP BY third, 2;
CREATE VIEW runs AS SELECT session(day, INTERVAL '1 day') AS w, count(*) AS n FROM clicks GROUP BY 1;
CREATE VIEW stays AS
SELECT session(w, INTERVAL '5 hours') AS w, sum(n) AS n, count(*) AS visits FROM visits GROUP BY session(w, INTERVAL '5 hours');

-- plain visits: SELECT user_id, min(at) AS w, max(at) + INTERVAL '3 hours' AS e, count(*) AS n FROM (SELECT *, sum(begins)
--   OVER (PARTITION BY user_id ORDER BY at, id ROWS UNBOUNDED PRECEDING) AS number FROM (SELECT *, CASE WHEN at < lag(at)
--   OVER (PARTITION BY user_id ORDER BY at, id) + INTERVAL '3 hours' THEN 0 ELSE 1 END AS begins FROM clicks)) GROUP BY
--   user_id, number
-- plain thirds: SELECT third, min(at) AS w, count(*) AS n FROM (SELECT *, sum(begins) OVER (PARTITION BY third ORDER BY
--   at, id ROWS UNBOUNDED PRECEDING) AS number FROM (SELECT *, CASE WHEN at < lag(at) OVER (PARTITION BY third ORDER BY at,
--   id) + INTERVAL '2 hours' THEN 0 ELSE 1 END AS begins FROM (SELECT id, at, third + 0.0 AS third FROM clicks))) GROUP
--   BY third, number
-- plain runs: SELECT day AS w, count(*) AS n FROM clicks GROUP BY day
-- plain stays: SELECT min(w) AS w, sum(n) AS n, count(*) AS visits FROM (SELECT *, sum(begins) OVER (ORDER BY w, user_id
--   ROWS UNBOUNDED PRECEDING) AS number FROM (SELECT *, CASE WHEN w < lag(w) OVER (ORDER BY w, user_id) + INTERVAL '5
--   hours' THEN 0 ELSE 1 END AS begins FROM visits)) GROUP BY number
