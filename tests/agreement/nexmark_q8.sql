-- Nexmark query 8, monitor new users: who registered and opened an auction within the same ten seconds.
-- events: nexmark records=200
CREATE STREAM person (
  id BIGINT NOT NULL, name TEXT, email_address TEXT, credit_card TEXT, city TEXT, state TEXT,
  date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);
CREATE STREAM auction (
  id BIGINT NOT NULL, item_name TEXT, description TEXT, initial_bid BIGINT, reserve BIGINT,
  date_time TIMESTAMP NOT NULL, expires TIMESTAMP, seller BIGINT, category BIGINT, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW v AS
SELECT p.id, p.name, p.began FROM (
  SELECT id, name, tumble(date_time, INTERVAL '10 seconds') AS began FROM person GROUP BY 1, 2, 3) AS p
JOIN (SELECT seller, tumble(date_time, INTERVAL '10 seconds') AS began FROM auction GROUP BY 1, 2) AS a
  ON p.id = a.seller AND p.began = a.began;
