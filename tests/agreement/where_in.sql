-- Lists.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, count(*) AS n FROM events WHERE kind IN ('buy', 'cart', 'it''s') AND amount NOT IN (1, 2,
  3) GROUP BY user_id;
