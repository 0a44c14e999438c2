-- Nexmark query 12 with the time at which the log took a bid in place of the processing time: bids of each bidder in
-- ten seconds.
-- events: nexmark
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW v AS
SELECT bidder, count(*) AS bid_count, tumble(_record_time, INTERVAL '10 seconds') AS starttime FROM bid GROUP BY 1, 3;
