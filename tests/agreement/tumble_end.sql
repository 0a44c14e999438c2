-- The end of a window is not in it.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '6 hours') AS began, window_end(tumble(at, INTERVAL '6 hours')) AS ended, count(*) AS n
FROM events GROUP BY 1;

-- plain v: SELECT tumble(at, INTERVAL '6 hours') AS began, tumble(at, INTERVAL '6 hours') + INTERVAL '6 hours' AS
--   ended, count(*) AS n FROM events GROUP BY 1, 2
