CREATE TABLE organization (
  id VARCHAR(32) NOT NULL PRIMARY KEY,
  name VARCHAR(200) NOT NULL UNIQUE,
  created_at BIGINT NOT NULL
)
;
CREATE TABLE app_user (
  id VARCHAR(32) NOT NULL PRIMARY KEY,
  name VARCHAR(200) NOT NULL UNIQUE,
  created_at BIGINT NOT NULL
)
;
CREATE TABLE membership (
  org_id VARCHAR(32) NOT NULL REFERENCES organization(id),
  user_id VARCHAR(32) NOT NULL REFERENCES app_user(id),
  role VARCHAR(16) NOT NULL CHECK (role IN ('owner', 'member')),
  created_at BIGINT NOT NULL,
  PRIMARY KEY (org_id, user_id)
)
;
CREATE TABLE api_token (
  id VARCHAR(32) NOT NULL PRIMARY KEY,
  org_id VARCHAR(32) NOT NULL,
  user_id VARCHAR(32) NOT NULL,
  name VARCHAR(200) NOT NULL,
  secret_hash VARCHAR(64) NOT NULL UNIQUE,
  scopes VARCHAR(400) NOT NULL,
  admin BOOLEAN NOT NULL,
  created_at BIGINT NOT NULL,
  expires_at BIGINT NULL,
  revoked_at BIGINT NULL,
  FOREIGN KEY (org_id, user_id) REFERENCES membership(org_id, user_id)
)
;
CREATE TABLE project (
  id VARCHAR(32) NOT NULL PRIMARY KEY,
  org_id VARCHAR(32) NOT NULL REFERENCES organization(id),
  name VARCHAR(200) NOT NULL,
  worker_name VARCHAR(63) NOT NULL UNIQUE,
  template VARCHAR(100) NULL,
  status VARCHAR(16) NOT NULL CHECK (status IN ('active', 'suspended')),
  tree_digest VARCHAR(64) NULL,
  created_at BIGINT NOT NULL
)
;
CREATE INDEX project_by_org ON project (org_id, id)
;
CREATE TABLE quota_period (
  org_id VARCHAR(32) NOT NULL REFERENCES organization(id),
  period VARCHAR(7) NOT NULL,
  plan VARCHAR(32) NOT NULL,
  limit_count BIGINT NOT NULL CHECK (limit_count >= 0),
  reserved BIGINT NOT NULL CHECK (reserved >= 0),
  settled BIGINT NOT NULL CHECK (settled >= 0),
  released BIGINT NOT NULL CHECK (released >= 0),
  PRIMARY KEY (org_id, period),
  CHECK (reserved + settled <= limit_count)
)
;
CREATE TABLE quota_entry (
  deployment_id VARCHAR(32) NOT NULL PRIMARY KEY,
  org_id VARCHAR(32) NOT NULL,
  period VARCHAR(7) NOT NULL,
  state VARCHAR(16) NOT NULL CHECK (state IN ('reserved', 'settled', 'released')),
  updated_at BIGINT NOT NULL,
  FOREIGN KEY (org_id, period) REFERENCES quota_period(org_id, period)
)
