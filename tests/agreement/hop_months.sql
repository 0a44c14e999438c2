-- Three months, every month.
-- events: shop days=200
CREATE STREAM events (id BIGINT NOT NULL, price DECIMAL(18, 2), at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT hop(at, INTERVAL '1 month', INTERVAL '3 months') AS w, count(*) AS n, sum(price) AS s FROM events GROUP BY 1;

-- plain v: SELECT w, count(*) AS n, sum(price) AS s FROM (SELECT *, tumble(at, INTERVAL '1 month') - back AS w FROM
--   events CROSS JOIN (VALUES (INTERVAL '0 months'), (INTERVAL '1 months'), (INTERVAL '2 months')) AS
--   hops(back)) WHERE at < w + INTERVAL '3 months' GROUP BY 1
