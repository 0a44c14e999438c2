-- Arrays as columns: their parts, and themselves as values.
-- event 0: {"k": "a", "tags": ["x", "y"], "at": "2024-01-10T00:00:00Z"}
-- event 1: {"k": "a", "tags": ["z", null], "at": "2024-01-10T00:00:00Z"}
-- event 2: {"k": "b", "tags": null, "at": "2024-01-10T00:00:00Z"}
-- event 0: {"k": "b", "tags": ["w"], "at": "2024-01-09T00:00:00Z"}
-- event 1: {"k": "a", "tags": ["y"], "at": "2024-01-10T00:00:00Z"}
CREATE STREAM events (k TEXT, tags TEXT[], at TIMESTAMPTZ NOT NULL) WITH (event_time = 'at', partitions = 3);

CREATE VIEW v AS
SELECT k, max(tags[1]) AS first_tag, sum(cardinality(tags)) AS tags, last_value(tags ORDER BY at) AS newest
FROM events GROUP BY k;

-- duckdb v: SELECT k, max(tags[1]) AS first_tag, sum(len(tags)) AS tags, last(tags ORDER BY at, _partition, _offset)
--   AS newest FROM events GROUP BY k
