-- Months of a DATE; rows without one are a group of their own.
-- events: shop days=90
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(day, INTERVAL '1 month') AS month, count(*) AS n FROM events GROUP BY 1;
