-- A global aggregate of nothing beside one of something.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT a.n, b.s FROM (SELECT count(*) AS n FROM events) AS a
CROSS JOIN (SELECT sum(amount) AS s FROM events WHERE user_id = 'nobody') AS b;
