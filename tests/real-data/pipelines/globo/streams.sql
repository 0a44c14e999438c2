-- Globo.com news clicks: 192 files, one per hour of session start; a click may come days after the start, so that
-- many are late for real.
CREATE STREAM globo (
  user_id             BIGINT NOT NULL,
  session_id          BIGINT NOT NULL,
  session_start       BIGINT,
  session_size        INT,
  click_article_id    BIGINT NOT NULL,
  click_timestamp     TIMESTAMPTZ NOT NULL,
  click_environment   INT,
  "click_deviceGroup" INT,
  click_os            INT,
  click_country       INT,
  click_region        INT,
  click_referrer_type INT
) WITH (
  format = 'json', partitions = 8, key = 'user_id',
  event_time = 'click_timestamp', event_time_format = 'unix_ms', lateness = '14 days'
);
