-- Different values among some rows.
-- events: shop seed=2
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, count(DISTINCT user_id) FILTER (WHERE amount > 0) AS buyers, count(DISTINCT amount) AS amounts
FROM events GROUP BY kind;
