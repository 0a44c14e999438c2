-- Averages of integers whose sum no double holds.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, big BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, avg(big) AS a FROM events GROUP BY kind;
