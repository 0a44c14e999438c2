-- Nexmark query 5, hot items: the auctions with the most bids in ten seconds, every two seconds.
-- events: nexmark
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW v AS
WITH counts AS (
  SELECT auction, hop(date_time, INTERVAL '2 seconds', INTERVAL '10 seconds') AS began, count(*) AS num
  FROM bid GROUP BY 1, 2)
SELECT counts.auction, counts.began, counts.num FROM counts
JOIN (SELECT began, max(num) AS maxn FROM counts GROUP BY began) AS most
  ON counts.began = most.began AND counts.num >= most.maxn;

-- plain v: WITH counts AS (SELECT auction, w AS began, count(*) AS num FROM (SELECT *, tumble(date_time, INTERVAL '2
--   seconds') - back AS w FROM bid CROSS JOIN (VALUES (INTERVAL '0 seconds'), (INTERVAL '2 seconds'),
--   (INTERVAL '4 seconds'), (INTERVAL '6 seconds'), (INTERVAL '8 seconds')) AS hops(back)) WHERE date_time <
--   w + INTERVAL '10 seconds' GROUP BY 1, 2) SELECT counts.auction, counts.began, counts.num FROM counts JOIN
--   (SELECT began, max(num) AS maxn FROM counts GROUP BY began) AS most ON counts.began = most.began AND
--   counts.num >= most.maxn
