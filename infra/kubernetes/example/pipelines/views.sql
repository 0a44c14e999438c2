-- Visits of each page and day.
CREATE VIEW page_days AS
SELECT page, tumble(at, INTERVAL '1 day') AS day, count(*) AS visits, sum(seconds) AS seconds
FROM visits GROUP BY 1, 2;
