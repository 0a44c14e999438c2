-- Averages of doubles.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, ratio DOUBLE, member BOOLEAN, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, avg(ratio) AS a, avg(ratio) FILTER (WHERE member) AS of_members FROM events GROUP BY kind;
