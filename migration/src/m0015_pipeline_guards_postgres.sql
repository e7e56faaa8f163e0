CREATE FUNCTION deployment_moves() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN RAISE EXCEPTION 'deployment_moves' USING ERRCODE = '23514'; END $$
;
CREATE TRIGGER deployment_moves BEFORE UPDATE OF status, fence, switched_at ON deployment
  FOR EACH ROW
  WHEN (NEW.fence < OLD.fence
    OR (OLD.switched_at IS NOT NULL AND NEW.switched_at IS DISTINCT FROM OLD.switched_at)
    OR (OLD.status IN ('completed', 'failed', 'cancelled') AND NEW.status <> OLD.status
        AND NOT (OLD.status = 'failed' AND NEW.status = 'queued' AND NEW.redrives = OLD.redrives + 1)))
  EXECUTE FUNCTION deployment_moves()
