-- A key out of CASE.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT CASE WHEN amount > 0 THEN 'gain' WHEN amount < 0 THEN 'loss' END AS k, date_part('hour', at) AS h,
  count(*) AS n
FROM events GROUP BY 1, 2;
