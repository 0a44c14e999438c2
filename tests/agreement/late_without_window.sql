-- Only windows leave late rows out.
-- events: shop records=80
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, count(*) AS n, max(at) AS newest FROM events GROUP BY kind;
