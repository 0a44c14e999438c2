-- Nexmark query 2, selection: bids of some auctions.
-- events: nexmark
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW v AS
SELECT auction, price FROM bid WHERE auction % 3 = 0;
