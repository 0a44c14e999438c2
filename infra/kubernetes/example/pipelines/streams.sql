-- What arrives.
CREATE STREAM visits (
  visit_id TEXT NOT NULL,
  page     TEXT NOT NULL,
  seconds  INT,
  at       TIMESTAMPTZ NOT NULL
) WITH (
  topic = 'visits', format = 'json', partitions = 12, key = 'page', event_time = 'at', lateness = '1 day',
  unique_key = 'visit_id', unique_within = '1 day'
);
