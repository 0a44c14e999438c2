-- Views four deep, and one that reads two of them.
-- events: shop
CREATE STREAM events (id BIGINT NOT NULL, user_id TEXT, kind TEXT, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', lateness = '1 hour', unique_key = 'id', unique_within = '1 day', partitions = 3);

CREATE VIEW a AS SELECT user_id, kind, count(*) AS n FROM events GROUP BY user_id, kind;
CREATE VIEW b AS SELECT user_id, sum(n) AS n, count(*) AS kinds FROM a GROUP BY user_id;
CREATE VIEW c AS SELECT kinds, sum(n) AS n, count(*) AS users FROM b GROUP BY kinds;
CREATE VIEW d AS SELECT max(users) AS most, sum(n) AS n FROM c;
CREATE VIEW e AS SELECT c.kinds, c.users, d.most FROM c CROSS JOIN d WHERE c.users < d.most;
