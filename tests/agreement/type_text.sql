-- Texts of every alphabet, with quotes and line ends.
-- event 0: {"t": "Füchse", "at": "2024-01-10T00:00:00Z"}
-- event 1: {"t": "日本", "at": "2024-01-10T00:00:00Z"}
-- event 2: {"t": "a\"b\\c\nd", "at": "2024-01-10T00:00:00Z"}
-- event 0: {"t": "\u65e5\u672c", "at": "2024-01-10T00:00:00Z"}
-- event 1: {"t": "NULL", "at": "2024-01-10T00:00:00Z"}
-- event 2: {"t": null, "at": "2024-01-10T00:00:00Z"}
-- event 0: {"t": "", "at": "2024-01-10T00:00:00Z"}
CREATE STREAM events (t TEXT, at TIMESTAMPTZ NOT NULL) WITH (event_time = 'at', partitions = 3);

CREATE VIEW v AS
SELECT t, count(*) AS n, upper(t) AS up, char_length(t) AS l FROM events GROUP BY t;
