-- The share of each window.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, n, n * 100 / sum(n) OVER () AS percent, max(n) OVER () - n AS behind
FROM (SELECT user_id, count(*) AS n FROM events GROUP BY 1);
