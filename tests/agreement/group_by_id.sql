-- A key beyond 2^53 keeps every digit; a repeated id is counted once.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT id, count(*) AS n, max(kind) AS kind FROM events GROUP BY id;
