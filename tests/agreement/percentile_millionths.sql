-- A place between two values is counted in millionths of their distance, cut.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, ratio DOUBLE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, percentile_cont(0.9) WITHIN GROUP (ORDER BY ratio) AS p90 FROM events GROUP BY kind;

-- duckdb v: SELECT kind, l[at + 1] + (coalesce(l[at + 2], 0) - l[at + 1]) * trunc((place - at) * 1e6) / 1e6 AS p90
--   FROM ( SELECT *, CAST(floor(place) AS BIGINT) AS at FROM (SELECT kind, array_agg(ratio ORDER BY ratio)
--   FILTER (WHERE ratio IS NOT NULL) AS l, 0.9::DOUBLE * (count(ratio) - 1) AS place FROM events GROUP BY
--   kind))
