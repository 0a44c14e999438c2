-- A view over some keys of a view.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW users AS SELECT user_id, kind, count(*) AS n FROM events GROUP BY user_id, kind;
CREATE VIEW buyers AS SELECT user_id, n FROM users WHERE kind = 'buy' AND n > 1;
CREATE VIEW one AS SELECT kind, n FROM users WHERE user_id = 'u2';
