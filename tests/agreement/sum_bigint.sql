-- Sums of integers beyond 2^53 keep every digit.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, big BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, sum(big) AS s, sum(big + 1) FILTER (WHERE big > 0) AS above FROM events GROUP BY kind;
