CREATE TABLE upstream (
  id VARCHAR(32) NOT NULL PRIMARY KEY,
  org_id VARCHAR(32) NOT NULL REFERENCES organization(id),
  project_id VARCHAR(32) NOT NULL REFERENCES project(id),
  origins TEXT NOT NULL,
  policy TEXT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  removed_at BIGINT NULL,
  route_epoch BIGINT NOT NULL
)
;
CREATE UNIQUE INDEX upstream_one_active ON upstream (project_id) WHERE removed_at IS NULL
;
CREATE INDEX upstream_by_epoch ON upstream (route_epoch)
