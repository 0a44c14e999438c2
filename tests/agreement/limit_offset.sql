-- A page.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, kind, count(*) AS n FROM events GROUP BY 1, 2 ORDER BY n DESC, user_id, kind LIMIT 5 OFFSET 3;
