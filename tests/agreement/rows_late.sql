-- Late rows are rows.
-- events: shop records=80
CREATE STREAM events (id BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT id, _partition, _offset, _late, at FROM events WHERE _late;
