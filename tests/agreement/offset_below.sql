-- OFFSET below an ordered aggregate, another order, a window function and a join.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, amount INT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW hours AS
SELECT tumble(at, INTERVAL '1 hour') AS h, count(*) AS n, sum(amount) AS s FROM events GROUP BY 1;
CREATE VIEW later AS SELECT h, n, s FROM hours ORDER BY h DESC LIMIT 4 OFFSET 2;
CREATE VIEW in_order AS SELECT h, array_agg(s ORDER BY h) AS ss FROM later GROUP BY h;
CREATE VIEW within AS
SELECT h, string_agg('x', ',' ORDER BY h) AS xs FROM (SELECT h, s FROM hours ORDER BY h DESC LIMIT 2 OFFSET 1) GROUP BY h;
CREATE VIEW again AS SELECT h, n, s FROM (SELECT h, n, s FROM hours ORDER BY h LIMIT 5 OFFSET 3) ORDER BY h, n LIMIT 3;
CREATE VIEW twice AS
SELECT h, n FROM (SELECT h, n FROM hours ORDER BY n DESC, h LIMIT 6 OFFSET 1) ORDER BY h DESC LIMIT 2 OFFSET 2;
CREATE VIEW numbered AS
SELECT h, row_number() OVER (ORDER BY h DESC, n) AS place FROM (SELECT h, n FROM hours ORDER BY h DESC OFFSET 3);
CREATE VIEW joined AS
SELECT later.h, later.n, hours.s FROM later JOIN hours ON later.h = hours.h;

-- duckdb in_order: SELECT h, array_agg(s ORDER BY h) AS ss FROM later GROUP BY h
-- duckdb within: SELECT h, string_agg('x', ',' ORDER BY h) AS xs FROM (SELECT h, s FROM hours ORDER BY h DESC LIMIT 2 OFFSET
--   1) GROUP BY h
