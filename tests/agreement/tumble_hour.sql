-- Windows of an hour, by key.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, tumble(at, INTERVAL '1 hour') AS hour, count(*) AS n, sum(amount) AS s FROM events GROUP BY 1, 2;
