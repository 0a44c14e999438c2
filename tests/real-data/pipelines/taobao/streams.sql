-- Taobao user behaviour: a CSV without header, unix seconds. Its cut-off last line is a time in 1970.
CREATE STREAM taobao (
  user_id     BIGINT NOT NULL,
  item_id     BIGINT NOT NULL,
  category_id BIGINT,
  behavior    TEXT,
  ts          TIMESTAMPTZ NOT NULL
) WITH (
  format = 'json', partitions = 8, key = 'user_id',
  event_time = 'ts', event_time_format = 'unix_s', lateness = '1 minute'
);
