-- Averages and count of the rows where both values are there.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, amount BIGINT, ratio DOUBLE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, regr_avgx(ratio, amount) AS x, regr_avgy(ratio, amount) AS y, regr_count(ratio, amount) AS n
FROM events GROUP BY kind;
