-- Counts without a GROUP BY: one row.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT count(*) AS n, count(amount) AS amounts, count(DISTINCT user_id) AS users FROM events;
