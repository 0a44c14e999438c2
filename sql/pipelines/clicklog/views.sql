-- The ten destinations that were searched most in ten minutes, every ten seconds.
CREATE VIEW top_destinations AS
SELECT began, place, destination, searches FROM (
  SELECT began, destination, searches,
         row_number() OVER (PARTITION BY began ORDER BY searches DESC, destination) AS place
  FROM (
    SELECT hop(date_time, INTERVAL '10 seconds', INTERVAL '10 minutes') AS began,
           srch_destination_id AS destination, sum(cnt) AS searches
    FROM hotel_clicks WHERE srch_destination_id IS NOT NULL GROUP BY 1, 2))
WHERE place <= 10;

-- The second different hotel that each user clicked on each day: ask for yesterday with a filter on day.
CREATE VIEW second_hotels AS
SELECT user_id, day, hotel, first_click FROM (
  SELECT user_id, tumble(date_time, INTERVAL '1 day') AS day, hotel_cluster AS hotel, min(date_time) AS first_click
  FROM hotel_clicks WHERE hotel_cluster IS NOT NULL GROUP BY 1, 2, 3)
QUALIFY row_number() OVER (PARTITION BY user_id, day ORDER BY first_click, hotel) = 2;

-- Visits: clicks of a user with less than half an hour between them.
CREATE VIEW visits AS
SELECT user_id, session(date_time, INTERVAL '30 minutes') AS began,
       window_end(session(date_time, INTERVAL '30 minutes')) AS ended,
       sum(cnt) AS clicks, max(is_booking) AS booked
FROM hotel_clicks GROUP BY 1, 2;

-- Clicks and bookings per market and month.
CREATE VIEW market_months AS
SELECT hotel_market, tumble(date_time, INTERVAL '1 month') AS month, sum(cnt) AS clicks, sum(is_booking) AS bookings,
       count(DISTINCT user_id) AS users, median(hotel_cluster) AS middle_cluster
FROM hotel_clicks GROUP BY 1, 2;

-- Every click of a user, looked up by user.
CREATE VIEW clicks_of_users WITH (key = 'user_id') AS
SELECT user_id, date_time, srch_destination_id, hotel_cluster, is_booking, cnt FROM hotel_clicks;
