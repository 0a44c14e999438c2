-- A window over some rows.
-- events: shop records=80
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, price DECIMAL(18, 2), day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '1 day') AS day, count(*) AS n FROM events WHERE kind = 'buy' AND price > 1000 GROUP BY 1;
