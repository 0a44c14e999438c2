-- Different values of every type.
-- events: shop
CREATE STREAM events (
  id BIGINT NOT NULL, big BIGINT, price DECIMAL(18, 2), ratio DOUBLE, day DATE, member BOOLEAN, at TIMESTAMPTZ
  NOT NULL
)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT count(DISTINCT big) AS bigs, count(DISTINCT price) AS prices, count(DISTINCT ratio) AS ratios,
       count(DISTINCT day) AS days, count(DISTINCT member) AS members, count(DISTINCT at) AS times
FROM events;
