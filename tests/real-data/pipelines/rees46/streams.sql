-- REES46 shop events: CSV with CRLF, times of a pattern, 64-bit ids, prices, empty fields, five exact repeats.
CREATE STREAM rees46 (
  event_time    TIMESTAMPTZ NOT NULL,
  event_type    TEXT NOT NULL,
  product_id    BIGINT NOT NULL,
  category_id   BIGINT,
  category_code TEXT,
  brand         TEXT,
  price         DECIMAL(12, 2),
  user_id       BIGINT NOT NULL,
  user_session  TEXT NOT NULL
) WITH (
  format = 'json', partitions = 8, key = 'user_id', timezone = 'UTC',
  event_time = 'event_time', event_time_format = '%Y-%m-%d %H:%M:%S UTC', lateness = '0 seconds'
);
