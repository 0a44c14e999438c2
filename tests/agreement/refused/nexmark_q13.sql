-- Nexmark query 13, a bounded side input: needs a table beside the streams.
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW v AS
SELECT b.auction, b.bidder, b.price, b.date_time, s.value FROM bid AS b JOIN side_input AS s ON b.auction % 10 = s.key;
-- refused: nexmark_q13.sql:7:78: there is no stream or view "side_input" before this view; declared so far: bid
