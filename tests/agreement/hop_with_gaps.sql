-- A slide longer than the window: some rows are in none.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT hop(at, INTERVAL '5 hours', INTERVAL '2 hours') AS w, count(*) AS n FROM events GROUP BY 1;

-- plain v: SELECT w, count(*) AS n FROM (SELECT *, tumble(at, INTERVAL '5 hours') - back AS w FROM events CROSS JOIN
--   (VALUES (INTERVAL '0 hours')) AS hops(back)) WHERE at < w + INTERVAL '2 hours' GROUP BY 1
