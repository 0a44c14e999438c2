-- Casts between types.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, amount BIGINT, ratio DOUBLE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT CAST(ratio AS BIGINT) AS whole, CAST(amount AS TEXT) AS written, CAST(at AS DATE) AS d, count(*) AS n
FROM events WHERE ratio = floor(ratio) GROUP BY 1, 2, 3;
