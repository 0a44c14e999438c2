-- A filter by date.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, count(*) AS n FROM events WHERE day >= DATE '2024-01-11' GROUP BY kind;
