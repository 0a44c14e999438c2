-- Deviations of integers; of one value there is no sample deviation.
-- events: shop records=14
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, stddev(amount) AS s, stddev_pop(amount) AS p FROM events GROUP BY user_id;
