-- A sketch answers the same in any order.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, big BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, approx_distinct(big) AS bigs, approx_distinct(user_id) AS users FROM events GROUP BY kind;

-- duckdb v: none
