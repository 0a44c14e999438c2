-- Slope, intercept and fit of a line.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, amount BIGINT, ratio DOUBLE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT regr_slope(ratio, amount) AS slope, regr_intercept(ratio, amount) AS intercept, regr_r2(ratio, amount) AS fit
FROM events;
