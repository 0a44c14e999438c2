-- A subtotal is told from a NULL key above the grouping.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, user_id, n, total FROM (
  SELECT kind, user_id, count(*) AS n, sum(amount) AS total FROM events GROUP BY ROLLUP (kind, user_id))
WHERE n > 1;
