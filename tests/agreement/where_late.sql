-- Late rows stay in views that have no window.
-- events: shop records=80
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, count(*) AS n, sum(amount) AS s FROM events WHERE _late GROUP BY kind;
