-- A day of Beirut that begins at one, because midnight was skipped.
-- events: shop from=2022-03-25 days=4 grid=15
CREATE STREAM events (id BIGINT NOT NULL, day DATE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '1 day', timezone => 'Asia/Beirut') AS day, count(*) AS n FROM events GROUP BY 1;
