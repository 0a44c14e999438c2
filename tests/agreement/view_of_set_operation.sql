-- Set operations over views.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW buyers AS SELECT user_id, count(*) AS n FROM events WHERE kind = 'buy' GROUP BY user_id;
CREATE VIEW viewers AS SELECT user_id, count(*) AS n FROM events WHERE kind = 'view' GROUP BY user_id;
CREATE VIEW only_viewers AS SELECT user_id FROM viewers EXCEPT SELECT user_id FROM buyers;
