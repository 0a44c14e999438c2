-- Sessions by two keys.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, kind, session(at, INTERVAL '12 hours') AS w, count(*) AS n FROM events GROUP BY 1, 2, 3;

-- plain v: SELECT user_id, kind, min(at) AS w, count(*) AS n FROM (SELECT *, sum(begins) OVER (PARTITION BY user_id,
--   kind ORDER BY at, _partition, _offset ROWS UNBOUNDED PRECEDING) AS number FROM (SELECT *, CASE WHEN at <
--   lag(at) OVER (PARTITION BY user_id, kind ORDER BY at, _partition, _offset) + INTERVAL '12 hours' THEN 0
--   ELSE 1 END AS begins FROM (SELECT * FROM events))) GROUP BY user_id, kind, number
