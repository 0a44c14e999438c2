-- Counts of rows, of values and of different values.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, count(*) AS n, count(kind) AS kinds, count(DISTINCT kind) AS different FROM events GROUP BY user_id;
