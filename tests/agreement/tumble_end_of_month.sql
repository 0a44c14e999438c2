-- A month ends where the next begins.
-- events: shop days=100
CREATE STREAM events (id BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT m, window_end(m) AS e, n FROM (
  SELECT tumble(at, INTERVAL '1 month') AS m, count(*) AS n FROM events GROUP BY 1);

-- plain v: SELECT m, m + INTERVAL '1 month' AS e, n FROM ( SELECT tumble(at, INTERVAL '1 month') AS m, count(*) AS n
--   FROM events GROUP BY 1)
