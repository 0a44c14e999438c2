-- Nexmark query 19, top ten bids: the dearest of each auction. Rows are a view of their own.
-- events: nexmark
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW bids WITH (key = 'auction') AS SELECT auction, bidder, price, date_time, _partition, _offset FROM bid;
CREATE VIEW v AS
SELECT auction, bidder, price, date_time, row_number() OVER (PARTITION BY auction ORDER BY price DESC, _partition,
  _offset) AS rank_number
FROM bids QUALIFY rank_number <= 10;

-- duckdb v: SELECT * FROM (SELECT auction, bidder, price, date_time, row_number() OVER (PARTITION BY auction ORDER BY
--   price DESC, _partition, _offset) AS rank_number FROM bids) WHERE rank_number <= 10
