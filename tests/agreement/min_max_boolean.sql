-- Extremes of booleans.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, member BOOLEAN, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, min(member) AS lo, max(member) AS hi FROM events GROUP BY kind;
