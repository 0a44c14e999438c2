-- No row passes: a global aggregate has its row.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, price DECIMAL(18, 2), at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW v AS
SELECT count(*) AS n, sum(price) AS s, min(kind) AS k FROM events WHERE user_id = 'nobody';
