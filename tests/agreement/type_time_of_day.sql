-- TIME as column and key.
-- event 0: {"opened": "08:30:00", "at": "2024-01-10T00:00:00Z"}
-- event 1: {"opened": "08:30:00", "at": "2024-01-10T00:00:00Z"}
-- event 2: {"opened": "23:59:59.999999", "at": "2024-01-10T00:00:00Z"}
-- event 0: {"opened": null, "at": "2024-01-10T00:00:00Z"}
CREATE STREAM events (opened TIME, at TIMESTAMPTZ NOT NULL) WITH (event_time = 'at', partitions = 3);

CREATE VIEW v AS
SELECT opened, count(*) AS n, min(opened) AS lo, max(opened) AS hi FROM events GROUP BY opened;
