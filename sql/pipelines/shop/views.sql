-- One profile per user. The last value of each kind is the last one that the user's events carry.
CREATE VIEW user_profiles AS
SELECT user_id,
       min(event_time) AS first_seen,
       max(event_time) AS last_visit,
       count(*) FILTER (WHERE event_type = 'purchase') AS purchases,
       sum(price * quantity) FILTER (WHERE event_type = 'purchase') AS amount,
       count(*) FILTER (WHERE event_type = 'cart') AS cart_adds,
       last_value(category ORDER BY event_time) FILTER (WHERE category IS NOT NULL) AS last_category,
       last_value(referrer ORDER BY event_time) FILTER (WHERE referrer IS NOT NULL) AS last_referrer,
       last_value(user_agent ORDER BY event_time) FILTER (WHERE user_agent IS NOT NULL) AS last_user_agent
FROM shop_events GROUP BY user_id;

-- Views, carts, purchases and revenue per product and day.
CREATE VIEW product_activity AS
SELECT product_id, tumble(event_time, INTERVAL '1 day') AS day,
       count(*) FILTER (WHERE event_type = 'view') AS views,
       count(*) FILTER (WHERE event_type = 'cart') AS carts,
       count(*) FILTER (WHERE event_type = 'purchase') AS purchases,
       count(DISTINCT user_id) AS visitors,
       sum(price * quantity) FILTER (WHERE event_type = 'purchase') AS revenue
FROM shop_events WHERE product_id IS NOT NULL GROUP BY 1, 2;

-- How many users came for the first time on each day.
CREATE VIEW new_users AS
SELECT tumble(first_seen, INTERVAL '1 day') AS day, count(*) AS users
FROM user_profiles GROUP BY 1;

-- What happened in a session, in order: looked up by user, or by user and session.
CREATE VIEW session_events AS
SELECT user_id, session_id,
       min(event_time) AS started, max(event_time) AS ended, count(*) AS events,
       array_agg(event_type ORDER BY event_time) AS actions,
       array_agg(product_id ORDER BY event_time) AS products,
       array_agg(event_time ORDER BY event_time) AS times
FROM shop_events GROUP BY user_id, session_id;
