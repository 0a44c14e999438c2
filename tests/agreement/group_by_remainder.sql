-- Arithmetic in a key.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT amount % 3 AS rest, amount / 5 AS fifth, count(*) AS n FROM events GROUP BY 1, 2;
