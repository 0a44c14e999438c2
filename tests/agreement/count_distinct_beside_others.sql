-- DISTINCT beside plain aggregates of the same column.
-- events: shop seed=3
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, count(DISTINCT amount) AS different, sum(amount) AS total, max(amount) AS most
FROM events GROUP BY user_id;
