-- The share of each kind of the whole.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT k.kind, k.n * 100 / t.n AS percent FROM (SELECT kind, count(*) AS n FROM events GROUP BY 1) AS k
CROSS JOIN (SELECT count(*) AS n FROM events) AS t;
