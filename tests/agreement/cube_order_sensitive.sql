-- First and last of every subtotal.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, member BOOLEAN, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, member, first_value(id ORDER BY at) AS first, last_value(id ORDER BY at) AS last
FROM events GROUP BY CUBE (kind, member);
