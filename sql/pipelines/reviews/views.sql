-- Stars and votes per product and day. Reviews that come more than two days late are left out.
CREATE VIEW product_days AS
SELECT product_id, tumble(review_date, INTERVAL '1 day') AS day,
       avg(star_rating) AS avg_stars, sum(helpful_votes) AS helpful_votes, sum(total_votes) AS total_votes,
       count(*) AS reviews
FROM reviews GROUP BY 1, 2;

-- Stars and votes per product over all time, late reviews included.
CREATE VIEW products AS
SELECT product_id, avg(star_rating) AS avg_stars, sum(helpful_votes) AS helpful_votes,
       sum(total_votes) AS total_votes, count(*) AS reviews,
       min(review_date) AS first_review, max(review_date) AS last_review
FROM reviews GROUP BY product_id;

-- In which months of the year a product is reviewed: a view over a view, finished when it is read.
CREATE VIEW product_seasons AS
SELECT product_id, date_part('month', day) AS month, sum(reviews) AS reviews,
       sum(helpful_votes) AS helpful_votes, sum(total_votes) AS total_votes
FROM product_days GROUP BY 1, 2;
