CREATE TABLE live_change (
  id VARCHAR(32) NOT NULL PRIMARY KEY,
  org_id VARCHAR(32) NOT NULL REFERENCES organization(id),
  project_id VARCHAR(32) NOT NULL REFERENCES project(id),
  user_id VARCHAR(32) NOT NULL REFERENCES app_user(id),
  seq BIGINT NOT NULL,
  kind VARCHAR(16) NOT NULL CHECK (kind IN ('rollback', 'promote', 'split')),
  version_id VARCHAR(32) NOT NULL REFERENCES version(id),
  percent INTEGER NULL CHECK (percent BETWEEN 1 AND 99),
  origin_seq BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  ended_at BIGINT NULL,
  UNIQUE (project_id, seq),
  CHECK ((kind = 'split') = (percent IS NOT NULL)),
  CHECK (kind = 'split' OR ended_at IS NULL),
  CHECK (origin_seq <= seq)
)
;
CREATE UNIQUE INDEX live_change_one_split ON live_change (project_id) WHERE kind = 'split' AND ended_at IS NULL
;
CREATE INDEX deployment_switched ON deployment (project_id, seq) WHERE switched_at IS NOT NULL
