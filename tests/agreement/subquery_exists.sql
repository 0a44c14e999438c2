-- Kinds for which there is a larger one.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT k.kind, k.n FROM (SELECT kind, count(*) AS n FROM events GROUP BY 1) AS k
WHERE EXISTS (SELECT 1 FROM (SELECT kind, count(*) AS n FROM events GROUP BY 1) AS o WHERE o.n > k.n);
