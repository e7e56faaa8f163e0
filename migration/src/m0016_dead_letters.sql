CREATE TABLE deployment_attempt (
  deployment_id VARCHAR(32) NOT NULL REFERENCES deployment(id),
  fence BIGINT NOT NULL,
  generation INTEGER NOT NULL CHECK (generation >= 0),
  attempt INTEGER NOT NULL CHECK (attempt BETWEEN 1 AND 3),
  server VARCHAR(64) NOT NULL,
  started_at BIGINT NOT NULL,
  ended_at BIGINT NULL,
  outcome VARCHAR(16) NULL CHECK (outcome IN ('completed', 'failed', 'cancelled', 'retry', 'handed_over', 'crashed')),
  step VARCHAR(16) NULL,
  cause TEXT NULL,
  PRIMARY KEY (deployment_id, fence),
  CHECK ((ended_at IS NULL) = (outcome IS NULL))
)
;
CREATE UNIQUE INDEX deployment_attempt_one_open ON deployment_attempt (deployment_id) WHERE ended_at IS NULL
;
CREATE TABLE dead_letter (
  id VARCHAR(32) NOT NULL PRIMARY KEY,
  org_id VARCHAR(32) NULL REFERENCES organization(id),
  deployment_id VARCHAR(32) NULL REFERENCES deployment(id),
  project_id VARCHAR(32) NULL REFERENCES project(id),
  generation INTEGER NULL,
  source_key VARCHAR(100) NULL UNIQUE,
  class VARCHAR(16) NOT NULL CHECK (class IN ('invalid', 'poison', 'crashed', 'exhausted')),
  fingerprint VARCHAR(64) NOT NULL,
  failed_step VARCHAR(16) NULL,
  attempts INTEGER NOT NULL,
  cause TEXT NOT NULL,
  original TEXT NOT NULL,
  sequence BIGINT NULL,
  first_failed_at BIGINT NOT NULL,
  last_failed_at BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  state VARCHAR(16) NOT NULL CHECK (state IN ('open', 'redriven', 'buried')),
  state_at BIGINT NULL,
  state_by VARCHAR(32) NULL,
  changed TEXT NULL,
  env_forgotten_at BIGINT NULL,
  UNIQUE (deployment_id, generation),
  CHECK ((class = 'invalid') = (deployment_id IS NULL)),
  CHECK ((class = 'invalid') = (source_key IS NOT NULL)),
  CHECK ((deployment_id IS NULL) = (generation IS NULL)),
  CHECK ((deployment_id IS NULL) = (project_id IS NULL)),
  CHECK ((state = 'open') = (state_at IS NULL))
)
;
CREATE INDEX dead_letter_open ON dead_letter (org_id, created_at, id) WHERE state = 'open'
;
CREATE INDEX dead_letter_group ON dead_letter (org_id, fingerprint) WHERE state = 'open'
;
CREATE INDEX dead_letter_by_org ON dead_letter (org_id, created_at, id)
;
CREATE INDEX deployment_env_kept ON deployment (finished_at) WHERE status = 'failed' AND env_sealed IS NOT NULL
