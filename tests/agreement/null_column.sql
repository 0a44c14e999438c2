-- Aggregates of a column that is NULL in every row.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, gone BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, count(gone) AS n, sum(gone) AS s, avg(gone) AS a, max(gone) AS m, array_agg(gone) AS l,
       last_value(gone ORDER BY at) AS last, count(DISTINCT gone) AS d
FROM events GROUP BY kind;
