-- Sessions that span days and cuts.
-- events: shop days=14
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, session(at, INTERVAL '30 hours') AS w, window_end(session(at, INTERVAL '30 hours')) AS e,
  sum(amount) AS s
FROM events GROUP BY 1, 2;

-- plain v: SELECT kind, min(at) AS w, max(at) + INTERVAL '30 hours' AS e, sum(amount) AS s FROM (SELECT *,
--   sum(begins) OVER (PARTITION BY kind ORDER BY at, _partition, _offset ROWS UNBOUNDED PRECEDING) AS number
--   FROM (SELECT *, CASE WHEN at < lag(at) OVER (PARTITION BY kind ORDER BY at, _partition, _offset) +
--   INTERVAL '30 hours' THEN 0 ELSE 1 END AS begins FROM (SELECT * FROM events))) GROUP BY kind, number
