-- Structs as columns: by their fields.
-- event 0: {"item": {"name": "a", "count": 9007199254740993}, "at": "2024-01-10T00:00:00Z"}
-- event 1: {"item": {"name": "a", "count": 2}, "at": "2024-01-10T00:00:00Z"}
-- event 2: {"item": {"name": null, "count": 3}, "at": "2024-01-10T00:00:00Z"}
-- event 0: {"item": {"name": "b", "count": null}, "at": "2024-01-10T00:00:00Z"}
-- event 1: {"item": null, "at": "2024-01-10T00:00:00Z"}
CREATE STREAM events (item STRUCT<name TEXT, count BIGINT>, at TIMESTAMPTZ NOT NULL)
WITH (event_time = 'at', partitions = 3);

CREATE VIEW v AS
SELECT item['name'] AS name, sum(item['count']) AS s, last_value(item['name'] ORDER BY at) AS l
FROM events GROUP BY 1;
