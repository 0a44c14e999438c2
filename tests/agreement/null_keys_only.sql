-- All keys are NULL: one group.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, gone TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT gone, count(*) AS n FROM events GROUP BY gone;
