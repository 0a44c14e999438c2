-- Ten minutes, every ten seconds.
-- events: shop records=15 grid=1
CREATE STREAM events (id BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT hop(at, INTERVAL '10 seconds', INTERVAL '1 minute') AS w, count(*) AS n FROM events GROUP BY 1;

-- plain v: SELECT w, count(*) AS n FROM (SELECT *, tumble(at, INTERVAL '10 seconds') - back AS w FROM events CROSS
--   JOIN (VALUES (INTERVAL '0 seconds'), (INTERVAL '10 seconds'), (INTERVAL '20 seconds'), (INTERVAL '30
--   seconds'), (INTERVAL '40 seconds'), (INTERVAL '50 seconds')) AS hops(back)) WHERE at < w + INTERVAL '1
--   minute' GROUP BY 1
