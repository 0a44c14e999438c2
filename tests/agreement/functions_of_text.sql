-- Functions of text.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT length(kind) AS l, substr(user_id, 2, 1) AS digit, concat(kind, '/', user_id) AS joined, count(*) AS n
FROM events GROUP BY 1, 2, 3;
