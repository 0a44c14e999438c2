-- Rows by user and kind.
-- events: shop
CREATE STREAM events (
  id BIGINT NOT NULL, user_id TEXT, kind TEXT, amount BIGINT, price DECIMAL(18, 2), at TIMESTAMPTZ NOT NULL
)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v WITH (key = 'user_id, kind') AS SELECT user_id, kind, id, amount, price, at FROM events;
