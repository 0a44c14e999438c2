-- A stream without lateness has no late rows.
-- events: shop records=60
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '1 day') AS day, count(*) AS n, bool_or(_late) AS late FROM events GROUP BY 1;
