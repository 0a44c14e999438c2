-- A size that is no multiple of the slide.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT hop(at, INTERVAL '3 hours', INTERVAL '4 hours') AS w,
       window_end(hop(at, INTERVAL '3 hours', INTERVAL '4 hours')) AS e, max(kind) AS k
FROM events GROUP BY 1, 2;

-- plain v: SELECT w, w + INTERVAL '4 hours' AS e, max(kind) AS k FROM (SELECT *, tumble(at, INTERVAL '3 hours') -
--   back AS w FROM events CROSS JOIN (VALUES (INTERVAL '0 hours'), (INTERVAL '3 hours'), (INTERVAL '6
--   hours')) AS hops(back)) WHERE at < w + INTERVAL '4 hours' GROUP BY 1, 2
