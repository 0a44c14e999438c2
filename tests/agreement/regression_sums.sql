-- Sums behind a regression.
-- events: shop records=60
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, amount BIGINT, ratio DOUBLE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, regr_sxx(ratio, amount) AS sxx, regr_sxy(ratio, amount) AS sxy, regr_syy(ratio, amount) AS syy
FROM events GROUP BY kind;
