-- Nexmark query 9, winning bids: needs a join of two streams.
CREATE STREAM auction (
  id BIGINT NOT NULL, item_name TEXT, description TEXT, initial_bid BIGINT, reserve BIGINT,
  date_time TIMESTAMP NOT NULL, expires TIMESTAMP, seller BIGINT, category BIGINT, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW v AS
SELECT a.id, a.item_name, a.seller, a.category, b.bidder, b.price, b.date_time FROM auction AS a JOIN bid AS b ON a.id = b.auction
WHERE b.date_time BETWEEN a.date_time AND a.expires
QUALIFY row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time) = 1;
-- refused: nexmark_q9.sql:10:1: rows of stream "auction" are joined, sorted or ranked one by one: aggregate them first, or make them a view of rows with WITH (key = ...) and read that; correct the view's SQL here
