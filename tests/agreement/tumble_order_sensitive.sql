-- First, last and all of each window, with equal times in different partitions.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '1 day') AS day, first_value(id ORDER BY at) AS first,
  last_value(kind ORDER BY at) AS last,
       array_agg(id ORDER BY at) AS ids
FROM events GROUP BY 1;
