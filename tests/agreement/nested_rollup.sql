-- Subtotals over groups.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, day DATE, member BOOLEAN, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, member, sum(n) AS n, max(users) AS users FROM (
  SELECT kind, member, day, count(*) AS n, count(DISTINCT user_id) AS users FROM events GROUP BY 1, 2, 3)
GROUP BY ROLLUP (kind, member);
