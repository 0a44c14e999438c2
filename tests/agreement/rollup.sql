-- Sums and subtotals.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, user_id, grouping(kind) AS g, count(*) AS n, sum(amount) AS s FROM events
GROUP BY ROLLUP (kind, user_id);
