-- Product reviews as customers send them. The day is all that is known of their time.
CREATE STREAM reviews (
  review_id         TEXT NOT NULL,
  product_id        TEXT NOT NULL,
  customer_id       TEXT,
  star_rating       INT,
  helpful_votes     INT,
  total_votes       INT,
  verified_purchase TEXT,
  review_headline   TEXT,
  review_body       TEXT,
  review_date       DATE NOT NULL
) WITH (
  topic = 'reviews', format = 'json', partitions = 8, key = 'product_id',
  event_time = 'review_date', lateness = '2 days', max_skew = '1 day',
  unique_key = 'review_id', unique_within = '7 days'
);
