ALTER TABLE organization ADD COLUMN sandbox_provider VARCHAR(16) NULL
  CHECK (sandbox_provider IN ('local', 'daytona', 'e2b'))
