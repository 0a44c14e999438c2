-- The place in the log as key.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT _partition, max(_offset) AS newest, count(*) FILTER (WHERE _late) AS late FROM events GROUP BY _partition;
