-- A view beside an aggregation of the stream itself.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW users AS SELECT user_id, count(*) AS n FROM events GROUP BY user_id;
CREATE VIEW share AS
SELECT users.user_id, users.n, k.kinds FROM users
JOIN (SELECT user_id, count(DISTINCT kind) AS kinds FROM events GROUP BY 1) AS k ON users.user_id = k.user_id;
