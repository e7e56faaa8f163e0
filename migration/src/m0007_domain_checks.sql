ALTER TABLE custom_domain ADD COLUMN checked_at BIGINT NULL
;
ALTER TABLE custom_domain ADD COLUMN next_check_at BIGINT NOT NULL DEFAULT 0
;
ALTER TABLE custom_domain ADD COLUMN asked_at BIGINT NULL
;
ALTER TABLE custom_domain ADD COLUMN proved_at BIGINT NULL
;
ALTER TABLE custom_domain ADD COLUMN lost_since BIGINT NULL
;
ALTER TABLE custom_domain ADD COLUMN lost_checks INTEGER NOT NULL DEFAULT 0
;
ALTER TABLE custom_domain ADD COLUMN unanswered INTEGER NOT NULL DEFAULT 0
;
ALTER TABLE custom_domain ADD COLUMN message VARCHAR(1000) NULL
;
ALTER TABLE custom_domain ADD COLUMN redirect_to VARCHAR(253) NULL
;
ALTER TABLE custom_domain ADD COLUMN quarantined_at BIGINT NULL
;
CREATE INDEX custom_domain_due ON custom_domain (next_check_at) WHERE status <> 'failed'
;
CREATE INDEX custom_domain_ending ON custom_domain (expires_at)
;
CREATE INDEX custom_domain_by_org ON custom_domain (org_id, id)
