-- A pivot by CASE.
-- events: shop seed=4
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, sum(CASE WHEN kind = 'view' THEN 1 ELSE 0 END) AS views,
       sum(CASE kind WHEN 'buy' THEN amount END) AS bought
FROM events GROUP BY user_id;
