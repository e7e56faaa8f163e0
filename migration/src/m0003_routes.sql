CREATE TABLE blob_ref (
  org_id VARCHAR(32) NOT NULL REFERENCES organization(id),
  digest VARCHAR(64) NOT NULL,
  size BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (org_id, digest)
)
;
CREATE TABLE version (
  id VARCHAR(32) NOT NULL PRIMARY KEY,
  org_id VARCHAR(32) NOT NULL,
  project_id VARCHAR(32) NOT NULL REFERENCES project(id),
  deployment_id VARCHAR(32) NOT NULL UNIQUE REFERENCES deployment(id),
  target VARCHAR(16) NOT NULL,
  seq BIGINT NOT NULL,
  kind VARCHAR(16) NOT NULL CHECK (kind IN ('static')),
  preview_label VARCHAR(63) NOT NULL UNIQUE,
  manifest_digest VARCHAR(64) NOT NULL,
  pack_digest VARCHAR(64) NOT NULL,
  pack_size BIGINT NOT NULL,
  file_count BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  retired_at BIGINT NULL,
  route_epoch BIGINT NOT NULL
)
;
CREATE INDEX version_by_epoch ON version (route_epoch)
;
CREATE INDEX version_by_project ON version (project_id, created_at)
;
CREATE TABLE custom_domain (
  id VARCHAR(32) NOT NULL PRIMARY KEY,
  org_id VARCHAR(32) NOT NULL,
  project_id VARCHAR(32) NOT NULL REFERENCES project(id),
  hostname VARCHAR(253) NOT NULL,
  status VARCHAR(16) NOT NULL CHECK (status IN ('pending', 'verified', 'active', 'failed', 'quarantined')),
  token VARCHAR(64) NOT NULL,
  created_at BIGINT NOT NULL,
  expires_at BIGINT NULL,
  verified_at BIGINT NULL,
  UNIQUE (project_id, hostname)
)
;
CREATE UNIQUE INDEX custom_domain_one_owner ON custom_domain (hostname) WHERE status IN ('verified', 'active', 'quarantined')
;
CREATE TABLE route_epoch (
  id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
  epoch BIGINT NOT NULL
)
;
INSERT INTO route_epoch (id, epoch) VALUES (1, 1)
;
CREATE TABLE edge_node (
  id VARCHAR(32) NOT NULL PRIMARY KEY,
  address VARCHAR(255) NOT NULL,
  epoch BIGINT NOT NULL,
  started_at BIGINT NOT NULL,
  heartbeat_at BIGINT NOT NULL
)
