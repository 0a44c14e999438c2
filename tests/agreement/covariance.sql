-- Covariances of rows where both values are there.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, amount BIGINT, ratio DOUBLE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, covar_samp(ratio, amount) AS s, covar_pop(ratio, amount) AS p FROM events GROUP BY kind;
