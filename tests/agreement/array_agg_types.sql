-- Lists of decimals, doubles, times and booleans.
-- events: shop records=30 grid=720
CREATE STREAM events (
  id BIGINT NOT NULL, user_id TEXT, price DECIMAL(18, 2), ratio DOUBLE, day DATE, member BOOLEAN, at
  TIMESTAMPTZ NOT NULL
)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT user_id, array_agg(price ORDER BY at) AS prices, array_agg(ratio ORDER BY at) AS ratios,
       array_agg(day ORDER BY at) AS days, array_agg(member ORDER BY at) AS members
FROM events GROUP BY user_id;
