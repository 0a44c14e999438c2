-- Values from the newest on.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, array_agg(amount ORDER BY at DESC) AS amounts, array_agg(id ORDER BY amount DESC NULLS LAST) AS ids
FROM events GROUP BY kind;
