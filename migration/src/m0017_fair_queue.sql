CREATE TABLE org_queue (
  org_id VARCHAR(32) NOT NULL PRIMARY KEY REFERENCES organization(id),
  weight INTEGER NOT NULL CHECK (weight BETWEEN 1 AND 100),
  running_limit INTEGER NULL CHECK (running_limit > 0),
  project_limit INTEGER NULL CHECK (project_limit > 0),
  deficit INTEGER NOT NULL CHECK (deficit >= 0),
  turn BIGINT NOT NULL
)
;
CREATE TABLE builder_node (
  id VARCHAR(64) NOT NULL PRIMARY KEY,
  slots INTEGER NOT NULL CHECK (slots > 0),
  heartbeat_at BIGINT NOT NULL
)
;
CREATE TABLE queue_turn (
  id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
  stamp BIGINT NOT NULL
)
;
INSERT INTO queue_turn (id, stamp) VALUES (1, 0)
;
CREATE TABLE queue_grant (
  deployment_id VARCHAR(32) NOT NULL PRIMARY KEY,
  ring BIGINT NOT NULL,
  fence BIGINT NOT NULL,
  granted_at BIGINT NOT NULL
)
;
CREATE TABLE project_pace (
  project_id VARCHAR(32) NOT NULL,
  target VARCHAR(16) NOT NULL,
  step VARCHAR(16) NOT NULL,
  samples INTEGER NOT NULL CHECK (samples > 0),
  mean_ms DOUBLE PRECISION NOT NULL CHECK (mean_ms >= 0),
  variance DOUBLE PRECISION NOT NULL CHECK (variance >= 0),
  PRIMARY KEY (project_id, target, step)
)
