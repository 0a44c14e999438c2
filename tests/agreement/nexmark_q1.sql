-- Nexmark query 1, currency: the price in euros.
-- events: nexmark
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW v AS
SELECT auction, bidder, 0.908 * CAST(price AS DECIMAL(18, 2)) AS price, date_time, extra FROM bid;
