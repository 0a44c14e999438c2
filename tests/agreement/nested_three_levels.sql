-- Three GROUP BYs above each other.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT users, count(*) AS how_often, max(n) AS most FROM (
  SELECT n, count(*) AS users FROM (
    SELECT user_id, kind, count(*) AS n FROM events GROUP BY user_id, kind)
  GROUP BY n)
GROUP BY users;
