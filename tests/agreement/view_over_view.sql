-- A view over a view.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW users AS
SELECT user_id, count(*) AS n, sum(amount) AS total, max(at) AS newest FROM events GROUP BY user_id;
CREATE VIEW activity AS
SELECT n, count(*) AS users, max(total) AS most, max(newest) AS newest FROM users GROUP BY n;
