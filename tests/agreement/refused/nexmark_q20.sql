-- Nexmark query 20, bids with what they are for: needs a join of two streams.
CREATE STREAM auction (
  id BIGINT NOT NULL, item_name TEXT, description TEXT, initial_bid BIGINT, reserve BIGINT,
  date_time TIMESTAMP NOT NULL, expires TIMESTAMP, seller BIGINT, category BIGINT, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW v AS
SELECT b.auction, b.bidder, b.price, b.date_time, a.item_name, a.seller FROM bid AS b JOIN auction AS a ON b.auction = a.id
WHERE a.category = 10;
-- refused: nexmark_q20.sql:10:1: rows of stream "bid" are joined, sorted or ranked one by one: aggregate them first, or make them a view of rows with WITH (key = ...) and read that; correct the view's SQL here
