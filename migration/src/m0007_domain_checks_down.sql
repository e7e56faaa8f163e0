DROP INDEX custom_domain_due
;
DROP INDEX custom_domain_ending
;
DROP INDEX custom_domain_by_org
;
ALTER TABLE custom_domain DROP COLUMN quarantined_at
;
ALTER TABLE custom_domain DROP COLUMN redirect_to
;
ALTER TABLE custom_domain DROP COLUMN message
;
ALTER TABLE custom_domain DROP COLUMN unanswered
;
ALTER TABLE custom_domain DROP COLUMN lost_checks
;
ALTER TABLE custom_domain DROP COLUMN lost_since
;
ALTER TABLE custom_domain DROP COLUMN proved_at
;
ALTER TABLE custom_domain DROP COLUMN asked_at
;
ALTER TABLE custom_domain DROP COLUMN next_check_at
;
ALTER TABLE custom_domain DROP COLUMN checked_at
