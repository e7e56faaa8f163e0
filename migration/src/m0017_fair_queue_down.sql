DROP TABLE project_pace
;
DROP TABLE queue_grant
;
DROP TABLE queue_turn
;
DROP TABLE builder_node
;
DROP TABLE org_queue
