-- Rows of one view beside groups of another.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW gains AS SELECT user_id, id, amount FROM events WHERE amount > 10;
CREATE VIEW users AS SELECT user_id, max(amount) AS most FROM events GROUP BY user_id;
CREATE VIEW best AS SELECT gains.user_id, gains.id FROM gains
  JOIN users ON gains.user_id = users.user_id AND gains.amount = users.most;
