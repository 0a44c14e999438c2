-- An order by an expression.
-- events: shop grid=720 seed=5
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, amount BIGINT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, first_value(amount ORDER BY abs(amount)) AS smallest FROM events GROUP BY kind;
