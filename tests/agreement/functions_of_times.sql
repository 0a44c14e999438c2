-- Parts of times.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT date_part('dow', at) AS weekday, date_part('hour', at) AS hour, date_part('month', day) AS month, count(*) AS n
FROM events GROUP BY 1, 2, 3;
