-- A boolean as key.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, amount BIGINT, member BOOLEAN, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT member, amount > 0 AS gain, count(*) AS n FROM events GROUP BY member, amount > 0;
