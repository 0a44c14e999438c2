-- The second of a partition.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, kind, nth_value(kind, 2) OVER (PARTITION BY user_id ORDER BY n, kind
  ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS second
FROM (SELECT user_id, kind, count(*) AS n, sum(amount) AS s FROM events
WHERE user_id IS NOT NULL AND kind IS NOT NULL GROUP BY 1, 2);
