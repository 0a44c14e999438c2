-- Windows that overlap and keep late rows.
-- events: shop records=80
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v WITH (late = 'keep') AS
SELECT hop(at, INTERVAL '12 hours', INTERVAL '1 day') AS w, count(*) AS n FROM events GROUP BY 1;

-- plain v: SELECT w, count(*) AS n FROM (SELECT *, tumble(at, INTERVAL '12 hours') - back AS w FROM events CROSS
--   JOIN (VALUES (INTERVAL '0 hours'), (INTERVAL '12 hours')) AS hops(back)) WHERE at < w + INTERVAL '1 day'
--   GROUP BY 1
