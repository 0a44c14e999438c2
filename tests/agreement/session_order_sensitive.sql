-- First, last and all of each session, with equal times in different partitions.
-- events: shop days=14 grid=720
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, session(at, INTERVAL '18 hours') AS w, first_value(id ORDER BY at) AS first,
       last_value(kind ORDER BY at) AS last, array_agg(id ORDER BY at) AS ids
FROM events GROUP BY 1, 2;

-- plain v: SELECT user_id, min(at) AS w, first_value(id ORDER BY at) AS first, last_value(kind ORDER BY at) AS last,
--   array_agg(id ORDER BY at) AS ids FROM (SELECT *, sum(begins) OVER (PARTITION BY user_id ORDER BY at,
--   _partition, _offset ROWS UNBOUNDED PRECEDING) AS number FROM (SELECT *, CASE WHEN at < lag(at) OVER
--   (PARTITION BY user_id ORDER BY at, _partition, _offset) + INTERVAL '18 hours' THEN 0 ELSE 1 END AS begins
--   FROM (SELECT * FROM events))) GROUP BY user_id, number
