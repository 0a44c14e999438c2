-- A window computed below the GROUP BY.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, amount BIGINT, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT w, count(*) AS n FROM (SELECT tumble(at, INTERVAL '1 day') AS w, amount FROM events)
WHERE amount > 0 GROUP BY w;
