-- Counts of some rows only.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, amount BIGINT, member BOOLEAN, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, count(*) FILTER (WHERE amount > 0) AS gains, count(*) FILTER (WHERE member) AS members
FROM events GROUP BY kind;
