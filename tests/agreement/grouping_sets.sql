-- Groupings by hand.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, user_id, grouping(kind) AS gk, grouping(user_id) AS gu, count(*) AS n
FROM events GROUP BY GROUPING SETS ((kind, user_id), (kind), (user_id), ());
