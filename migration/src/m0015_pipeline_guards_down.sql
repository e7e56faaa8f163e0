ALTER TABLE deployment DROP COLUMN resume_from
;
ALTER TABLE deployment DROP COLUMN hand_overs
;
ALTER TABLE deployment DROP COLUMN redrives
;
DROP INDEX deployment_leased
;
DROP INDEX deployment_rung
;
DROP INDEX deployment_waiting
;
DROP INDEX deployment_due
