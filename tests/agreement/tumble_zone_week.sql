-- Weeks of Sydney, where summer ends in April.
-- events: shop from=2024-03-25 days=21 grid=60
CREATE STREAM events (id BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '7 days', timezone => 'Australia/Sydney') AS week, count(*) AS n FROM events GROUP BY 1;
