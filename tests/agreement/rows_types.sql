-- Rows with columns of every type.
-- events: shop
CREATE STREAM events (
  id BIGINT NOT NULL, big BIGINT, price DECIMAL(18, 2), ratio DOUBLE, day DATE, member BOOLEAN, local
  TIMESTAMP, at TIMESTAMPTZ NOT NULL
)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT id, big, price, ratio, day, member, local, at FROM events;
