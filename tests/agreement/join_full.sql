-- Users of either kind.
-- events: shop records=30
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT coalesce(v.user_id, b.user_id) AS user_id, v.n AS views, b.n AS buys
FROM (SELECT user_id, count(*) AS n FROM events WHERE kind = 'view' GROUP BY 1) AS v
FULL JOIN (SELECT user_id, count(*) AS n FROM events WHERE kind = 'buy' GROUP BY 1) AS b ON v.user_id = b.user_id;
