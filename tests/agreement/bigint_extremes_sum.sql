-- A sum that leaves BIGINT on the way and comes back.
-- event 0: {"n": 9223372036854775807, "at": "2024-01-10T00:00:00Z"}
-- event 1: {"n": -9223372036854775808, "at": "2024-01-10T00:00:00Z"}
-- event 2: {"n": 9223372036854775806, "at": "2024-01-10T00:00:00Z"}
-- event 0: {"n": 0, "at": "2024-01-10T00:00:00Z"}
-- event 1: {"n": null, "at": "2024-01-10T00:00:00Z"}
-- event 2: {"n": -9223372036854775807, "at": "2024-01-10T00:00:00Z"}
CREATE STREAM events (n BIGINT, at TIMESTAMPTZ NOT NULL) WITH (event_time = 'at', partitions = 3);

CREATE VIEW v AS
SELECT sum(n) AS s, avg(n) AS a FROM events;
