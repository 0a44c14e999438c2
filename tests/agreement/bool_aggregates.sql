-- Booleans, with NULLs left out.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, member BOOLEAN, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, bool_and(member) AS every_one, bool_or(member) AS any_one, bool_or(_late) AS late FROM events
GROUP BY kind;
