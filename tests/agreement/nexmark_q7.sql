-- Nexmark query 7, highest bid: the bids with the highest price of each ten seconds. Rows are a view of their own.
-- events: nexmark
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW bids AS SELECT auction, bidder, price, date_time, extra FROM bid;
CREATE VIEW highest AS
SELECT tumble(date_time, INTERVAL '10 seconds') AS began, max(price) AS maxprice FROM bid GROUP BY 1;
CREATE VIEW v AS
SELECT bids.auction, bids.price, bids.bidder, bids.date_time, bids.extra FROM bids
JOIN highest ON bids.price = highest.maxprice
WHERE bids.date_time >= highest.began AND bids.date_time < highest.began + INTERVAL '10 seconds';
