DROP INDEX custom_domain_verified
;
DROP INDEX custom_domain_by_hostname
;
ALTER TABLE route_epoch DROP COLUMN forgotten_epoch
;
ALTER TABLE route_epoch DROP COLUMN unmarked
;
ALTER TABLE route_epoch DROP COLUMN marked_epoch
;
DROP INDEX host_change_by_epoch
;
DROP TABLE host_change
