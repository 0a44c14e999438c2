-- One sum stands in several expressions.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, sum(amount) AS s, sum(amount) * 2 AS twice, sum(amount) + count(*) AS more FROM events
GROUP BY user_id;
