-- Quarters.
-- events: shop days=500
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '3 months') AS quarter, kind, count(*) AS n FROM events GROUP BY 1, 2;
