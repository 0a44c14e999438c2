-- A key out of date_trunc is no window: late rows count.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT date_trunc('day', at) AS d, count(*) AS n FROM events GROUP BY 1;
