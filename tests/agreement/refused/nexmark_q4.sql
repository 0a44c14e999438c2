-- Nexmark query 4, average price of a category: needs a join of two streams.
CREATE STREAM auction (
  id BIGINT NOT NULL, item_name TEXT, description TEXT, initial_bid BIGINT, reserve BIGINT,
  date_time TIMESTAMP NOT NULL, expires TIMESTAMP, seller BIGINT, category BIGINT, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW v AS
SELECT category, avg(final) AS average FROM (
  SELECT max(b.price) AS final, a.category FROM auction AS a JOIN bid AS b ON a.id = b.auction
  WHERE b.date_time BETWEEN a.date_time AND a.expires GROUP BY a.id, a.category)
GROUP BY category;
-- refused: nexmark_q4.sql:10:1: rows of stream "auction" are joined, sorted or ranked one by one: aggregate them first, or make them a view of rows with WITH (key = ...) and read that; correct the view's SQL here
