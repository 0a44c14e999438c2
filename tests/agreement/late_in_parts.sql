-- A view of a window leaves late rows out everywhere.
-- events: shop records=80
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT d.day, d.n, a.all_of_them FROM (
  SELECT tumble(at, INTERVAL '1 day') AS day, count(*) AS n FROM events GROUP BY 1) AS d
CROSS JOIN (SELECT count(*) AS all_of_them FROM events) AS a;
