-- Sessions of some rows: the others bridge nothing.
-- events: shop records=60
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, session(at, INTERVAL '8 hours') AS w, count(*) AS n FROM events
WHERE kind IN ('view', 'buy') GROUP BY 1, 2;

-- plain v: SELECT user_id, min(at) AS w, count(*) AS n FROM (SELECT *, sum(begins) OVER (PARTITION BY user_id ORDER
--   BY at, _partition, _offset ROWS UNBOUNDED PRECEDING) AS number FROM (SELECT *, CASE WHEN at < lag(at)
--   OVER (PARTITION BY user_id ORDER BY at, _partition, _offset) + INTERVAL '8 hours' THEN 0 ELSE 1 END AS
--   begins FROM (SELECT * FROM events WHERE kind IN ('view', 'buy')))) GROUP BY user_id, number
