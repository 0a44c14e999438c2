-- Nexmark query 9, winning bids, and query 6, the average price of the last ten auctions of each seller, as joins of
-- views of rows.
-- events: nexmark records=160
CREATE STREAM auction (
  id BIGINT NOT NULL, item_name TEXT, description TEXT, initial_bid BIGINT, reserve BIGINT,
  date_time TIMESTAMP NOT NULL, expires TIMESTAMP, seller BIGINT, category BIGINT, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW auctions WITH (key = 'id') AS
SELECT id, item_name, description, initial_bid, reserve, date_time, expires, seller, category FROM auction;
CREATE VIEW bids WITH (key = 'auction') AS SELECT auction, bidder, price, channel, url, date_time, _partition,
  _offset FROM bid;
CREATE VIEW winning AS
SELECT id, item_name, seller, category, bidder, price, bid_time FROM (
SELECT auctions.id, auctions.item_name, auctions.seller, auctions.category, bids.bidder, bids.price,
  bids.date_time AS bid_time,
       row_number() OVER (PARTITION BY auctions.id ORDER BY bids.price DESC, bids.date_time, bids._partition,
       bids._offset) AS place
FROM auctions JOIN bids ON auctions.id = bids.auction
WHERE bids.date_time BETWEEN auctions.date_time AND auctions.expires)
WHERE place = 1;
CREATE VIEW selling AS
SELECT seller, id, avg(price) OVER (PARTITION BY seller ORDER BY bid_time, id
  ROWS BETWEEN 10 PRECEDING AND CURRENT ROW) AS average
FROM winning;
