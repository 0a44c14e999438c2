-- All values of all partitions, most of them at equal times.
-- events: shop grid=1440 seed=6
CREATE STREAM events (id BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT array_agg(id ORDER BY at) AS ids FROM events;
