-- The least event time that is taken lies in a year, a month and a week, too.
-- events: shop from=1971-03-01 days=300
CREATE STREAM events (id BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '1 year') AS year, tumble(at, INTERVAL '7 days') AS week, count(*) AS n
FROM events GROUP BY 1, 2;
