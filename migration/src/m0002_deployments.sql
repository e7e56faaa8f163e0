CREATE TABLE project_target (
  project_id VARCHAR(32) NOT NULL REFERENCES project(id),
  target VARCHAR(16) NOT NULL CHECK (target IN ('production', 'preview')),
  org_id VARCHAR(32) NOT NULL,
  last_seq BIGINT NOT NULL,
  live_seq BIGINT NOT NULL,
  live_version_id VARCHAR(32) NULL,
  route_epoch BIGINT NOT NULL,
  PRIMARY KEY (project_id, target),
  CHECK (live_seq <= last_seq)
)
;
CREATE INDEX project_target_by_epoch ON project_target (route_epoch)
;
CREATE TABLE deployment (
  id VARCHAR(32) NOT NULL PRIMARY KEY,
  org_id VARCHAR(32) NOT NULL REFERENCES organization(id),
  project_id VARCHAR(32) NOT NULL REFERENCES project(id),
  user_id VARCHAR(32) NOT NULL REFERENCES app_user(id),
  target VARCHAR(16) NOT NULL CHECK (target IN ('production', 'preview')),
  seq BIGINT NOT NULL,
  status VARCHAR(16) NOT NULL CHECK (status IN ('queued', 'in_progress', 'completed', 'failed', 'cancelled')),
  current_step VARCHAR(16) NULL,
  progress INTEGER NOT NULL CHECK (progress BETWEEN 0 AND 100),
  attempt INTEGER NOT NULL CHECK (attempt BETWEEN 0 AND 3),
  fence BIGINT NOT NULL,
  ring BIGINT NOT NULL,
  rung_at BIGINT NULL,
  ring_sequence BIGINT NULL,
  due_at BIGINT NOT NULL,
  lease_owner VARCHAR(64) NULL,
  lease_until BIGINT NULL,
  cancel_requested_at BIGINT NULL,
  cancel_reason VARCHAR(32) NULL,
  source TEXT NOT NULL,
  build TEXT NOT NULL,
  env_sealed TEXT NULL,
  custom_domain VARCHAR(253) NULL,
  branch VARCHAR(255) NULL,
  commit_ref VARCHAR(255) NULL,
  message TEXT NULL,
  event_seq BIGINT NOT NULL,
  version_id VARCHAR(32) NULL,
  switched_at BIGINT NULL,
  cause TEXT NULL,
  crashed_step VARCHAR(16) NULL,
  crashes_in_step INTEGER NOT NULL,
  first_failed_at BIGINT NULL,
  last_failed_at BIGINT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  finished_at BIGINT NULL,
  UNIQUE (project_id, target, seq),
  CHECK ((status = 'in_progress') = (lease_owner IS NOT NULL AND lease_until IS NOT NULL)),
  CHECK ((status IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
  CHECK (status <> 'failed' OR cause IS NOT NULL),
  CHECK (status <> 'cancelled' OR cancel_reason IS NOT NULL),
  CHECK (status <> 'completed' OR version_id IS NOT NULL)
)
;
CREATE UNIQUE INDEX deployment_one_running ON deployment (project_id, target) WHERE status = 'in_progress'
;
CREATE INDEX deployment_open ON deployment (status, due_at) WHERE status IN ('queued', 'in_progress')
;
CREATE INDEX deployment_by_org ON deployment (org_id, created_at, id)
;
CREATE INDEX deployment_by_project ON deployment (project_id, target, seq)
;
CREATE TABLE deployment_step (
  deployment_id VARCHAR(32) NOT NULL REFERENCES deployment(id),
  step VARCHAR(16) NOT NULL CHECK (step IN ('validate', 'sync', 'sandbox', 'build', 'deploy', 'cleanup')),
  status VARCHAR(16) NOT NULL CHECK (status IN ('pending', 'in_progress', 'completed', 'failed', 'skipped')),
  attempt INTEGER NOT NULL,
  started_at BIGINT NULL,
  finished_at BIGINT NULL,
  result TEXT NULL,
  error TEXT NULL,
  PRIMARY KEY (deployment_id, step)
)
;
CREATE TABLE deployment_event (
  deployment_id VARCHAR(32) NOT NULL REFERENCES deployment(id),
  seq BIGINT NOT NULL,
  at BIGINT NOT NULL,
  kind VARCHAR(32) NOT NULL,
  message TEXT NOT NULL,
  data TEXT NOT NULL,
  PRIMARY KEY (deployment_id, seq)
)
;
CREATE TABLE build_log (
  deployment_id VARCHAR(32) NOT NULL REFERENCES deployment(id),
  seq BIGINT NOT NULL,
  at BIGINT NOT NULL,
  attempt INTEGER NOT NULL,
  text TEXT NOT NULL,
  PRIMARY KEY (deployment_id, seq)
)
;
CREATE TABLE idempotency_key (
  org_id VARCHAR(32) NOT NULL,
  credential_id VARCHAR(32) NOT NULL,
  key VARCHAR(255) NOT NULL,
  body_digest VARCHAR(64) NOT NULL,
  deployment_id VARCHAR(32) NOT NULL,
  created_at BIGINT NOT NULL,
  PRIMARY KEY (org_id, credential_id, key)
)
;
CREATE INDEX idempotency_key_by_age ON idempotency_key (created_at)
