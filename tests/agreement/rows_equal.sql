-- Rows that are equal in all that is selected stay as many as they are.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, kind TEXT, member BOOLEAN, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT kind, member FROM events WHERE kind IS NOT NULL;
