-- The five oldest rows, with equal times in different partitions.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW clicks AS SELECT id, kind, at FROM events;
CREATE VIEW oldest AS SELECT id, kind, at FROM clicks ORDER BY at LIMIT 5;

-- duckdb oldest: SELECT id, kind, at FROM clicks ORDER BY at, id, kind NULLS FIRST LIMIT 5
