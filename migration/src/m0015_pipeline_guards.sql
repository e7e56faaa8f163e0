CREATE INDEX deployment_due ON deployment (due_at, created_at) WHERE status = 'queued'
;
CREATE INDEX deployment_waiting ON deployment (org_id) WHERE status = 'queued'
;
CREATE INDEX deployment_rung ON deployment (rung_at) WHERE status = 'queued' AND rung_at IS NOT NULL
;
CREATE INDEX deployment_leased ON deployment (lease_until) WHERE status = 'in_progress'
;
ALTER TABLE deployment ADD COLUMN redrives INTEGER NOT NULL DEFAULT 0
  CHECK (redrives >= 0 AND (status <> 'queued' OR attempt < 3))
;
ALTER TABLE deployment ADD COLUMN hand_overs INTEGER NOT NULL DEFAULT 0 CHECK (hand_overs >= 0)
;
ALTER TABLE deployment ADD COLUMN resume_from VARCHAR(16) NULL CHECK (resume_from IN ('start', 'failed_step'))
