-- Texts joined in the order of the log.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, string_agg(user_id, ' > ') AS users FROM events GROUP BY kind;
