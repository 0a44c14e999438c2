CREATE VIEW taobao_behaviors AS
SELECT behavior, count(*) AS events, count(DISTINCT user_id) AS users, count(DISTINCT item_id) AS items,
       min(ts) AS first_event, max(ts) AS last_event
FROM taobao GROUP BY behavior;

CREATE VIEW taobao_users AS
SELECT user_id, count(*) AS events, count(*) FILTER (WHERE behavior = 'pv') AS looks,
       count(*) FILTER (WHERE behavior = 'buy') AS buys, count(DISTINCT category_id) AS categories,
       min(ts) AS first_event, max(ts) AS last_event
FROM taobao GROUP BY user_id;

CREATE VIEW taobao_categories AS
SELECT category_id, count(*) AS events, count(DISTINCT user_id) AS users, count(DISTINCT item_id) AS items,
       min(item_id) AS lowest_item, max(item_id) AS highest_item
FROM taobao GROUP BY category_id;

-- What is left at the end: the kinds of users by number of purchases.
CREATE VIEW taobao_buyers AS
SELECT buys, count(*) AS users, sum(events) AS events FROM taobao_users GROUP BY buys;

CREATE VIEW taobao_minutes AS
SELECT tumble(ts, INTERVAL '1 minute') AS minute, behavior, count(*) AS events, count(DISTINCT user_id) AS users
FROM taobao GROUP BY 1, 2;
