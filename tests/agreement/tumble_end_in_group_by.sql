-- The end of a window in the GROUP BY says nothing more.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '1 day') AS began, window_end(tumble(at, INTERVAL '1 day')) AS ended, kind, count(*) AS n
FROM events GROUP BY 1, 2, 3;

-- plain v: SELECT tumble(at, INTERVAL '1 day') AS began, tumble(at, INTERVAL '1 day') + INTERVAL '1 day' AS ended,
--   kind, count(*) AS n FROM events GROUP BY 1, 2, 3
