-- Windows of the time at which the log took a row.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(_record_time, INTERVAL '12 hours') AS w, count(*) AS n FROM events GROUP BY 1;
