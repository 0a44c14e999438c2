-- Nexmark query 16, channel statistics: query 15 by channel, with the last minute that it was used in.
-- events: nexmark
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW v AS
SELECT channel, to_char(date_time, '%Y-%m-%d') AS day, max(to_char(date_time, '%H:%M')) AS minute,
  count(*) AS total_bids,
       count(*) FILTER (WHERE price < 1000) AS rank1_bids,
       count(DISTINCT bidder) AS total_bidders,
       count(DISTINCT auction) FILTER (WHERE price >= 1000 AND price < 2000) AS rank2_auctions
FROM bid GROUP BY 1, 2;

-- duckdb v: SELECT channel, strftime(date_time, '%Y-%m-%d') AS day, max(strftime(date_time, '%H:%M')) AS minute,
--   count(*) AS total_bids, count(*) FILTER (WHERE price < 1000) AS rank1_bids, count(DISTINCT bidder) AS
--   total_bidders, count(DISTINCT auction) FILTER (WHERE price >= 1000 AND price < 2000) AS rank2_auctions
--   FROM bid GROUP BY 1, 2
