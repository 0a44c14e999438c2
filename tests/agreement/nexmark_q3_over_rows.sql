-- Nexmark query 3, local items, as a join of two views of rows: who sells in some states.
-- events: nexmark records=300
CREATE STREAM person (
  id BIGINT NOT NULL, name TEXT, email_address TEXT, credit_card TEXT, city TEXT, state TEXT,
  date_time TIMESTAMP NOT NULL, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);
CREATE STREAM auction (
  id BIGINT NOT NULL, item_name TEXT, description TEXT, initial_bid BIGINT, reserve BIGINT,
  date_time TIMESTAMP NOT NULL, expires TIMESTAMP, seller BIGINT, category BIGINT, extra TEXT
) WITH (event_time = 'date_time', lateness = '4 seconds', partitions = 3);

CREATE VIEW persons WITH (key = 'id') AS SELECT id, name, city, state, date_time FROM person;
CREATE VIEW auctions WITH (key = 'id') AS
SELECT id, item_name, description, initial_bid, reserve, date_time, expires, seller, category FROM auction;
CREATE VIEW v AS
SELECT persons.name, persons.city, persons.state, auctions.id FROM auctions
  JOIN persons ON auctions.seller = persons.id
WHERE auctions.category = 10 AND persons.state IN ('OR', 'ID', 'CA');
