-- Nexmark query 18, last bid: the newest bid of each bidder on each auction. Rows are a view of their own.
-- events: nexmark
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW bids WITH (key = 'bidder, auction') AS
SELECT auction, bidder, price, channel, url, date_time, extra, _partition, _offset FROM bid;
CREATE VIEW v AS
SELECT auction, bidder, price, channel, url, date_time, extra FROM bids
QUALIFY row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC, _partition, _offset) <= 1;
