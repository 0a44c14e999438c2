-- Nexmark query 15, bidding statistics: bids, bidders and auctions of each day, by price.
-- events: nexmark
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW v AS
SELECT to_char(date_time, '%Y-%m-%d') AS day, count(*) AS total_bids,
       count(*) FILTER (WHERE price < 1000) AS rank1_bids,
       count(*) FILTER (WHERE price >= 1000 AND price < 2000) AS rank2_bids,
       count(*) FILTER (WHERE price >= 2000) AS rank3_bids,
       count(DISTINCT bidder) AS total_bidders,
       count(DISTINCT bidder) FILTER (WHERE price < 1000) AS rank1_bidders,
       count(DISTINCT auction) AS total_auctions,
       count(DISTINCT auction) FILTER (WHERE price >= 2000) AS rank3_auctions
FROM bid GROUP BY 1;

-- duckdb v: SELECT strftime(date_time, '%Y-%m-%d') AS day, count(*) AS total_bids, count(*) FILTER (WHERE price <
--   1000) AS rank1_bids, count(*) FILTER (WHERE price >= 1000 AND price < 2000) AS rank2_bids, count(*)
--   FILTER (WHERE price >= 2000) AS rank3_bids, count(DISTINCT bidder) AS total_bidders, count(DISTINCT
--   bidder) FILTER (WHERE price < 1000) AS rank1_bidders, count(DISTINCT auction) AS total_auctions,
--   count(DISTINCT auction) FILTER (WHERE price >= 2000) AS rank3_auctions FROM bid GROUP BY 1
