-- Searches and clicks of a hotel portal. One record may stand for several equal clicks: count with cnt.
CREATE STREAM hotel_clicks (
  date_time           TIMESTAMPTZ NOT NULL,
  user_id             BIGINT NOT NULL,
  srch_destination_id BIGINT,
  hotel_market        BIGINT,
  hotel_cluster       BIGINT,
  is_booking          INT,
  cnt                 INT
) WITH (
  format = 'json', partitions = 8, key = 'user_id', timezone = 'UTC',
  event_time = 'date_time', event_time_format = '%Y-%m-%d %H:%M:%S'
);
