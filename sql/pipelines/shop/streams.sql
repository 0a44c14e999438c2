-- What visitors of a shop do: look at a product, put it into the cart, buy it.
CREATE STREAM shop_events (
  event_id   TEXT NOT NULL,
  user_id    TEXT NOT NULL,
  session_id TEXT NOT NULL,
  event_type TEXT NOT NULL,
  product_id TEXT,
  category   TEXT,
  price      DECIMAL(12, 2),
  quantity   INT,
  referrer   TEXT,
  user_agent TEXT,
  event_time TIMESTAMPTZ NOT NULL
) WITH (
  topic = 'shop_events', format = 'json', partitions = 8, key = 'user_id',
  event_time = 'event_time', lateness = '1 hour', max_skew = '5 minutes',
  unique_key = 'event_id', unique_within = '1 day'
);
