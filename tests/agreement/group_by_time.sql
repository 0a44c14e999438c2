-- A time as key.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT at, count(*) AS n, array_agg(id) AS ids FROM events GROUP BY at;
