-- Sessions of everybody together.
-- events: shop records=35
CREATE STREAM events (id BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT session(at, INTERVAL '2 hours') AS w, count(*) AS n FROM events GROUP BY 1;

-- plain v: SELECT min(at) AS w, count(*) AS n FROM (SELECT *, sum(begins) OVER (ORDER BY at, _partition, _offset
--   ROWS UNBOUNDED PRECEDING) AS number FROM (SELECT *, CASE WHEN at < lag(at) OVER (ORDER BY at, _partition,
--   _offset) + INTERVAL '2 hours' THEN 0 ELSE 1 END AS begins FROM (SELECT * FROM events))) GROUP BY number
