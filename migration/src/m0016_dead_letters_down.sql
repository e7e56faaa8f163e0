DROP INDEX deployment_env_kept
;
DROP TABLE dead_letter
;
DROP TABLE deployment_attempt
