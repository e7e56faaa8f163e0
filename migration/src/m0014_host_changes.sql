CREATE TABLE host_change (
  hostname VARCHAR(253) NOT NULL PRIMARY KEY,
  route_epoch BIGINT NOT NULL,
  changed_at BIGINT NOT NULL
)
;
CREATE INDEX host_change_by_epoch ON host_change (route_epoch, hostname)
;
ALTER TABLE route_epoch ADD COLUMN marked_epoch BIGINT NOT NULL DEFAULT 0
;
ALTER TABLE route_epoch ADD COLUMN unmarked BIGINT NOT NULL DEFAULT 0
;
ALTER TABLE route_epoch ADD COLUMN forgotten_epoch BIGINT NOT NULL DEFAULT 0
;
UPDATE route_epoch SET marked_epoch = epoch
;
CREATE INDEX custom_domain_by_hostname ON custom_domain (hostname)
;
CREATE INDEX custom_domain_verified ON custom_domain (project_id) WHERE status = 'verified'
