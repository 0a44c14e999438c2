-- Correlation of two columns.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, amount BIGINT, ratio DOUBLE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT count(*) AS n, corr(ratio, amount) AS c FROM events;
