-- Rows keep the sign of a zero, alone and in arrays and structs, also as the key that they are looked up by.
-- event 0: {"k": "a", "x": 0, "xs": [0, -0.0], "p": {"y": -0.0}, "at": "2024-01-10T00:00:00Z"}
-- event 1: {"k": "b", "x": -0.0, "xs": [-0.0], "p": {"y": 0}, "at": "2024-01-10T00:00:00Z"}
-- event 2: {"k": "c", "x": -1.5, "xs": [], "p": null, "at": "2024-01-10T00:00:00Z"}
-- event 0: {"k": "d", "x": null, "xs": null, "p": {"y": null}, "at": "2024-01-10T00:00:00Z"}
-- event 1: {"k": "e", "x": -0.0, "xs": [0, null], "p": {"y": -2}, "at": "2024-01-10T00:00:00Z"}
-- event 2: {"k": "f", "x": 1e300, "xs": [1.5], "p": {"y": 1.5}, "at": "2024-01-10T00:00:00Z"}
CREATE STREAM events (
  k TEXT, x DOUBLE, xs DOUBLE[], p STRUCT<y DOUBLE>, at TIMESTAMPTZ NOT NULL
)
WITH (event_time = 'at', partitions = 3);

CREATE VIEW v AS
SELECT k, x, xs, p, -x AS negated, CAST(CAST(x AS REAL) AS DOUBLE) AS single FROM events WHERE x IS NULL OR x < 1000;

CREATE VIEW by_x WITH (key = 'x') AS
SELECT x, k, CAST(x AS REAL) AS single FROM events WHERE x < 1000 AND x = 0;
