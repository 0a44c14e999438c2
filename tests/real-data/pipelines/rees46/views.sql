CREATE VIEW rees46_brands AS
SELECT brand, count(*) AS events, sum(price) AS amount, min(price) AS lowest, max(price) AS highest,
       count(DISTINCT user_id) AS users, count(category_code) AS coded
FROM rees46 GROUP BY brand;

CREATE VIEW rees46_categories AS
SELECT category_id, event_type, count(*) AS events, sum(price) AS amount, count(DISTINCT product_id) AS products
FROM rees46 GROUP BY category_id, event_type;

CREATE VIEW rees46_users AS
SELECT user_id, min(event_time) AS first_seen, max(event_time) AS last_seen,
       count(*) FILTER (WHERE event_type = 'purchase') AS purchases,
       sum(price) FILTER (WHERE event_type = 'purchase') AS revenue,
       count(DISTINCT user_session) AS sessions
FROM rees46 GROUP BY user_id;

-- Log order decides between events of one second, and a session has one user, so one partition.
CREATE VIEW rees46_sessions AS
SELECT user_session, array_agg(event_type ORDER BY event_time) AS actions,
       array_agg(product_id ORDER BY event_time) AS products,
       first_value(product_id ORDER BY event_time) AS first_product,
       last_value(product_id ORDER BY event_time) AS last_product
FROM rees46 GROUP BY user_session;

-- A date function is no window: late rows count.
CREATE VIEW rees46_hours AS
SELECT date_trunc('hour', event_time) AS hour, date_part('minute', event_time) AS minute, count(*) AS events,
       sum(price) AS amount
FROM rees46 GROUP BY 1, 2;

CREATE VIEW rees46_windows AS
SELECT tumble(event_time, INTERVAL '10 minutes') AS start, event_type, count(*) AS events, sum(price) AS amount,
       count(DISTINCT user_session) AS sessions
FROM rees46 GROUP BY 1, 2;
