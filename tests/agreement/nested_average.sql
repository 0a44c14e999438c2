-- The average of counts, and the count of averages.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT avg(n) AS average, min(n) AS least, max(n) AS most, count(a) AS averages FROM (
  SELECT user_id, count(*) AS n, avg(amount) AS a FROM events GROUP BY user_id);
