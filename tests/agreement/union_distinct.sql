-- Two lists in one.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, member BOOLEAN, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id FROM events WHERE kind = 'buy' GROUP BY 1 UNION SELECT user_id FROM events WHERE member GROUP BY 1;
