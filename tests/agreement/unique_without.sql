-- Without a unique key every row counts.
-- events: shop records=80 seed=9
CREATE STREAM events (id BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', partitions = 3);

CREATE VIEW v AS
SELECT count(*) AS n, count(DISTINCT id) AS ids FROM events;
