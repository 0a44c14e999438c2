-- Bits of integers.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, bit_and(amount) AS a, bit_or(amount) AS o, bit_xor(amount) AS x FROM events GROUP BY kind;
