-- Nexmark query 12, processing time windows: an answer would depend on when a row is processed.
CREATE STREAM bid (
  auction BIGINT, bidder BIGINT, price BIGINT, channel TEXT, url TEXT, date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW v AS
SELECT bidder, count(*) AS bid_count, tumble(proctime(), INTERVAL '10 seconds') AS starttime FROM bid GROUP BY 1, 3;
-- refused: nexmark_q12.sql:7:46: there is no function proctime; did you mean to_time?
