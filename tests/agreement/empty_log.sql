-- No event at all: a global aggregate has its row, with 0 and NULLs.
-- events: shop records=0
CREATE STREAM events (
  id BIGINT NOT NULL, user_id TEXT, kind TEXT, amount BIGINT, price DECIMAL(18, 2), ratio DOUBLE, member
  BOOLEAN, at TIMESTAMPTZ NOT NULL
)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT count(*) AS n, sum(amount) AS s, avg(price) AS a, max(at) AS newest, array_agg(kind ORDER BY at) AS kinds,
       bool_and(member) AS b, median(ratio) AS m, count(DISTINCT user_id) AS d
FROM events;
