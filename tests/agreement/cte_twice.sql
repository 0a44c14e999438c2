-- One WITH read twice: each user beside the one before.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
WITH u AS (SELECT user_id, count(*) AS n FROM events WHERE user_id IS NOT NULL GROUP BY 1)
SELECT a.user_id, a.n, count(b.user_id) AS busier FROM u AS a LEFT JOIN u AS b ON b.n > a.n GROUP BY a.user_id, a.n;
