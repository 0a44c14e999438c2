CREATE VIEW globo_users AS
SELECT user_id, count(*) AS clicks, count(DISTINCT session_id) AS sessions,
       count(DISTINCT click_article_id) AS articles, min(click_timestamp) AS first_click,
       max(click_timestamp) AS last_click
FROM globo GROUP BY user_id;

CREATE VIEW globo_articles AS
SELECT click_article_id, count(*) AS clicks, count(DISTINCT user_id) AS users,
       sum(session_size) AS sizes, max(session_start) AS last_start
FROM globo GROUP BY click_article_id;

CREATE VIEW globo_sessions AS
SELECT session_id, count(*) AS clicks, max(session_size) AS session_size, min(click_timestamp) AS first_click,
       max(click_timestamp) AS last_click
FROM globo GROUP BY session_id;

-- The publisher says that a session has as many clicks as session_size: every session must be there whole.
CREATE VIEW globo_whole AS
SELECT clicks = session_size AS whole, count(*) AS sessions, sum(clicks) AS clicks FROM globo_sessions GROUP BY 1;

-- A date function is no window: late rows count.
CREATE VIEW globo_days AS
SELECT date_trunc('day', click_timestamp) AS day, click_referrer_type, count(*) AS clicks,
       count(DISTINCT user_id) AS users
FROM globo GROUP BY 1, 2;

-- Windows: rows more than 14 days late, as the log judges it, are left out.
CREATE VIEW globo_hours AS
SELECT tumble(click_timestamp, INTERVAL '1 hour') AS hour, count(*) AS clicks, count(DISTINCT user_id) AS users
FROM globo GROUP BY 1;

CREATE VIEW globo_article_days AS
SELECT click_article_id, tumble(click_timestamp, INTERVAL '1 day') AS day, count(*) AS clicks,
       min(click_timestamp) AS first_click
FROM globo GROUP BY 1, 2;
