-- Months of the calendar, with a leap day.
-- events: shop days=100
CREATE STREAM events (id BIGINT NOT NULL, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '1 month') AS month, count(*) AS n, avg(amount) AS a FROM events GROUP BY 1;
