ALTER TABLE live_change ADD COLUMN before_version_id VARCHAR(32)
;
ALTER TABLE live_change ADD COLUMN before_split_id VARCHAR(32)
;
ALTER TABLE live_change ADD COLUMN before_percent INTEGER
;
ALTER TABLE live_change ADD COLUMN route_epoch BIGINT
