CREATE TRIGGER deployment_moves BEFORE UPDATE OF status, fence, switched_at ON deployment
WHEN NEW.fence < OLD.fence
  OR (OLD.switched_at IS NOT NULL AND NEW.switched_at IS NOT OLD.switched_at)
  OR (OLD.status IN ('completed', 'failed', 'cancelled') AND NEW.status <> OLD.status
      AND NOT (OLD.status = 'failed' AND NEW.status = 'queued' AND NEW.redrives = OLD.redrives + 1))
BEGIN SELECT RAISE(ABORT, 'deployment_moves'); END
