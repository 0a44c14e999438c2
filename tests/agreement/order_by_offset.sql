-- An order that names the log itself.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT _partition, array_agg(amount ORDER BY _offset DESC) AS newest_first FROM events GROUP BY _partition;
