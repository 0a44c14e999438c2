-- The median of doubles is exact.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, ratio DOUBLE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, median(ratio) AS m FROM events GROUP BY kind;
