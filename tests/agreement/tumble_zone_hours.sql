-- Four hours of Berlin over the change of its clocks.
-- events: shop from=2024-03-30 days=3 grid=15
CREATE STREAM events (id BIGINT NOT NULL, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT tumble(at, INTERVAL '4 hours', timezone => 'Europe/Berlin') AS w, count(*) AS n FROM events GROUP BY 1;

-- duckdb v: none
