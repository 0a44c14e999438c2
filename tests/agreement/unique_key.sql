-- A repeated key within its horizon counts once.
-- events: shop records=80 seed=9
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, count(*) AS n, sum(amount) AS s FROM events GROUP BY user_id;
