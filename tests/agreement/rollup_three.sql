-- Subtotals of three levels.
-- events: shop
CREATE STREAM events (
  id BIGINT NOT NULL, user_id TEXT, kind TEXT, price DECIMAL(18, 2), member BOOLEAN, at TIMESTAMPTZ NOT NULL
)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT member, kind, user_id, count(*) AS n, max(price) AS dearest FROM events
GROUP BY ROLLUP (member, kind, user_id);
