-- Windows that overlap, with enough in them.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT hop(at, INTERVAL '6 hours', INTERVAL '12 hours') AS w, count(*) AS n FROM events WHERE amount IS NOT NULL
GROUP BY 1 HAVING count(*) > 6;

-- plain v: SELECT w, count(*) AS n FROM (SELECT *, tumble(at, INTERVAL '6 hours') - back AS w FROM events CROSS JOIN
--   (VALUES (INTERVAL '0 hours'), (INTERVAL '6 hours')) AS hops(back)) WHERE at < w + INTERVAL '12 hours' AND
--   amount IS NOT NULL GROUP BY 1 HAVING count(*) > 6
