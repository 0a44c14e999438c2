-- Those of one list who are not in the other.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id FROM events GROUP BY 1 EXCEPT SELECT user_id FROM events GROUP BY 1 HAVING count(*) > 7;
