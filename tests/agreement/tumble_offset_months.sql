-- A business year from July on.
-- events: shop days=900
CREATE STREAM events (id BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '12 months', INTERVAL '6 months') AS year, count(*) AS n FROM events GROUP BY 1;
