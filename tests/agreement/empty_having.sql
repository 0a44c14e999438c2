-- The one row of a global aggregate can be filtered, too.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT count(*) AS n FROM events WHERE user_id = 'nobody' HAVING count(*) > 0;
