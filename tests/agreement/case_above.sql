-- CASE and texts over merged values.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, CASE WHEN n > 8 THEN 'often' WHEN n > 4 THEN 'sometimes' ELSE 'seldom' END AS how,
  n || ' times' AS written
FROM (SELECT user_id, count(*) AS n FROM events GROUP BY 1);
