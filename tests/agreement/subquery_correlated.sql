-- For each user, how many kinds they share with others.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT u.user_id, (SELECT count(*) FROM (SELECT user_id, kind, count(*) AS n FROM events GROUP BY 1, 2) AS x
WHERE x.user_id = u.user_id) AS kinds
FROM (SELECT user_id, count(*) AS n FROM events GROUP BY 1) AS u;
