-- Ranges of numbers and times.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, count(*) AS n FROM events
WHERE amount BETWEEN -5 AND 15 AND at BETWEEN '2024-01-10T12:00:00Z' AND '2024-01-12T00:00:00Z' GROUP BY kind;
