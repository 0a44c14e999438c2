-- A view over windows that overlap.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW hops AS
SELECT hop(at, INTERVAL '12 hours', INTERVAL '1 day') AS w, kind, count(*) AS n FROM events GROUP BY 1, 2;
CREATE VIEW busiest AS SELECT w, max(n) AS most, count(*) AS kinds FROM hops GROUP BY w;

-- plain hops: SELECT w, kind, count(*) AS n FROM (SELECT *, tumble(at, INTERVAL '12 hours') - back AS w FROM events
--   CROSS JOIN (VALUES (INTERVAL '0 hours'), (INTERVAL '12 hours')) AS hops(back)) WHERE at < w + INTERVAL '1
--   day' GROUP BY 1, 2
