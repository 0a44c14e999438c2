-- An order by two columns.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, amount BIGINT, member BOOLEAN, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, first_value(id ORDER BY amount DESC, at) AS best, last_value(id ORDER BY member, at DESC) AS other
FROM events GROUP BY kind;
