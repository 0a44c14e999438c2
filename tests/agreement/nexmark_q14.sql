-- Nexmark query 14, calculation: prices, the time of the day, and how often a letter occurs.
-- events: nexmark
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW v AS
SELECT auction, bidder, 0.908 * CAST(price AS DECIMAL(18, 2)) AS price,
       CASE WHEN date_part('second', date_time) < 20 THEN 'dayTime' WHEN date_part('second',
       date_time) >= 40 THEN 'nightTime'
            ELSE 'otherTime' END AS bid_time_type,
       date_time, extra, length(extra) - length(replace(extra, 'c', '')) AS c_counts
FROM bid WHERE 0.908 * CAST(price AS DECIMAL(18, 2)) > 1000;
