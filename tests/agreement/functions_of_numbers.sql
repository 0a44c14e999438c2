-- Functions of numbers.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, amount BIGINT, ratio DOUBLE, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT abs(amount) AS a, signum(ratio) AS s, floor(ratio) AS f, count(*) AS n FROM events GROUP BY 1, 2, 3;

-- duckdb v: SELECT abs(amount) AS a, sign(ratio) AS s, floor(ratio) AS f, count(*) AS n FROM events GROUP BY 1, 2, 3
