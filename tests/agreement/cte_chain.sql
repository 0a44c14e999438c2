-- Steps by WITH.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
WITH per_day AS (SELECT date_trunc('day', at) AS d, user_id, count(*) AS n FROM events GROUP BY 1, 2),
     busiest AS (SELECT d, max(n) AS n FROM per_day GROUP BY d)
SELECT per_day.d, per_day.user_id, per_day.n FROM per_day
  JOIN busiest ON per_day.d = busiest.d AND per_day.n = busiest.n;
