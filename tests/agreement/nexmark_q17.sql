-- Nexmark query 17, auction statistics: bids of each auction and day, by price.
-- events: nexmark
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW v AS
SELECT auction, to_char(date_time, '%Y-%m-%d') AS day, count(*) AS total_bids,
       count(*) FILTER (WHERE price < 1000) AS rank1_bids,
       min(price) AS min_price, max(price) AS max_price, avg(price) AS avg_price, sum(price) AS sum_price
FROM bid GROUP BY 1, 2;

-- duckdb v: SELECT auction, strftime(date_time, '%Y-%m-%d') AS day, count(*) AS total_bids, count(*) FILTER (WHERE
--   price < 1000) AS rank1_bids, min(price) AS min_price, max(price) AS max_price, avg(price) AS avg_price,
--   sum(price) AS sum_price FROM bid GROUP BY 1, 2
