-- A window inside an expression of the GROUP BY.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT date_part('day', tumble(at, INTERVAL '1 day')) AS day, count(*) AS n FROM events GROUP BY 1;
