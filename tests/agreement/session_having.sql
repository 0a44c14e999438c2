-- Sessions of some length.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, session(at, INTERVAL '6 hours') AS w, count(*) AS n FROM events GROUP BY 1, 2 HAVING count(*) > 1;

-- plain v: SELECT user_id, min(at) AS w, count(*) AS n FROM (SELECT *, sum(begins) OVER (PARTITION BY user_id ORDER
--   BY at, _partition, _offset ROWS UNBOUNDED PRECEDING) AS number FROM (SELECT *, CASE WHEN at < lag(at)
--   OVER (PARTITION BY user_id ORDER BY at, _partition, _offset) + INTERVAL '6 hours' THEN 0 ELSE 1 END AS
--   begins FROM (SELECT * FROM events))) GROUP BY user_id, number HAVING count(*) > 1
