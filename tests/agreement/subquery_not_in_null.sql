-- NOT IN a list with a NULL holds for nothing; the answer has one row, of the count.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT count(*) AS n FROM (SELECT user_id FROM events GROUP BY 1)
WHERE user_id NOT IN (SELECT kind FROM events GROUP BY 1);
