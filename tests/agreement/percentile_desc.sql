-- A percentile counted from above.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, ratio DOUBLE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, percentile_cont(0.2) WITHIN GROUP (ORDER BY ratio DESC) AS p FROM events GROUP BY kind;
