-- Days in which a user came, of windows below.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, count(*) AS days, max(n) AS busiest, sum(s) AS s FROM (
  SELECT tumble(at, INTERVAL '1 day') AS day, user_id, count(*) AS n, sum(amount) AS s FROM events GROUP BY 1, 2)
GROUP BY user_id;
