-- Several orders in one view.
-- events: shop grid=720 seed=5
CREATE STREAM events (
  id BIGINT NOT NULL, user_id TEXT, kind TEXT, amount BIGINT, big BIGINT, ratio DOUBLE, at TIMESTAMPTZ NOT
  NULL
)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, array_agg(amount ORDER BY at) AS a, array_agg(amount ORDER BY big) AS b,
       first_value(user_id ORDER BY ratio) AS f
FROM events GROUP BY kind;
