-- Nexmark query 4, average price of a category, as a join of two views of rows.
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
CREATE VIEW v AS
SELECT category, avg(final) AS average FROM (
  SELECT auctions.id, auctions.category, max(bids.price) AS final FROM auctions
  JOIN bids ON auctions.id = bids.auction
  WHERE bids.date_time BETWEEN auctions.date_time AND auctions.expires GROUP BY auctions.id, auctions.category)
GROUP BY category;
