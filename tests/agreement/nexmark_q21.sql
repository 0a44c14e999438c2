-- Nexmark query 21, channel id: a number for each channel, read out of the address where there is none.
-- events: nexmark
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW v AS
SELECT auction, bidder, price, channel, channel_id FROM (
  SELECT auction, bidder, price, channel,
         CASE lower(channel) WHEN 'apple' THEN '0' WHEN 'google' THEN '1' WHEN 'facebook' THEN '2' WHEN 'baidu'
         THEN '3'
              ELSE nullif(split_part(url, 'channel_id=', 2), '') END AS channel_id, _partition, _offset
  FROM bid)
WHERE channel_id IS NOT NULL;
