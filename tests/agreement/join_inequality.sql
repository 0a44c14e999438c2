-- Pairs of kinds by their counts.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
WITH k AS (SELECT kind, count(*) AS n FROM events GROUP BY 1)
SELECT a.kind, b.kind AS less FROM k AS a JOIN k AS b ON a.n > b.n;
