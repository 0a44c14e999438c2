-- Windows of a time without a zone.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, day DATE, local TIMESTAMP, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(local, INTERVAL '1 day') AS day, count(*) AS n FROM events GROUP BY 1;
