-- Nexmark query 11, user sessions: bids of each bidder without a pause of ten seconds.
-- events: nexmark
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW v AS
SELECT bidder, count(*) AS bid_count, session(date_time, INTERVAL '10 seconds') AS starttime,
       window_end(session(date_time, INTERVAL '10 seconds')) AS endtime
FROM bid GROUP BY bidder, session(date_time, INTERVAL '10 seconds');

-- plain v: SELECT bidder, count(*) AS bid_count, min(date_time) AS starttime, max(date_time) + INTERVAL '10 seconds'
--   AS endtime FROM ( SELECT *, sum(begins) OVER (PARTITION BY bidder ORDER BY date_time, _partition, _offset
--   ROWS UNBOUNDED PRECEDING) AS number FROM ( SELECT *, CASE WHEN date_time < lag(date_time) OVER (PARTITION
--   BY bidder ORDER BY date_time, _partition, _offset) + INTERVAL '10 seconds' THEN 0 ELSE 1 END AS begins
--   FROM bid)) GROUP BY bidder, number
