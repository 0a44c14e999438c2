-- Percentiles of some rows.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, amount BIGINT, member BOOLEAN, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, quantile_cont(amount, 0.3) AS p30,
       percentile_cont(0.3) WITHIN GROUP (ORDER BY amount) FILTER (WHERE member) AS members
FROM events GROUP BY kind;
