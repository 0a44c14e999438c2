-- Extremes of dates and times.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, day DATE, local TIMESTAMP, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, min(day) AS first_day, max(day) AS last_day, min(at) AS first, max(at) AS last, max(local) AS local
FROM events GROUP BY kind;
