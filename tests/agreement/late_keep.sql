-- Late rows stay in windows that keep them.
-- events: shop records=80
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v WITH (late = 'keep') AS
SELECT tumble(at, INTERVAL '1 day') AS day, count(*) AS n, count(*) FILTER (WHERE _late) AS late
FROM events GROUP BY 1;
