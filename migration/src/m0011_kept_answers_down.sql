ALTER TABLE live_change DROP COLUMN before_version_id
;
ALTER TABLE live_change DROP COLUMN before_split_id
;
ALTER TABLE live_change DROP COLUMN before_percent
;
ALTER TABLE live_change DROP COLUMN route_epoch
