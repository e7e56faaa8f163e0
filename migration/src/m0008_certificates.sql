CREATE TABLE certificate (
  hostname VARCHAR(253) NOT NULL PRIMARY KEY,
  state VARCHAR(16) NOT NULL CHECK (state IN ('none', 'queued', 'issuing', 'valid', 'failed')),
  issuer VARCHAR(253) NULL,
  challenge VARCHAR(16) NULL,
  chain TEXT NULL,
  key_sealed TEXT NULL,
  not_before BIGINT NULL,
  not_after BIGINT NULL,
  failures BIGINT NOT NULL CHECK (failures >= 0),
  last_words TEXT NULL,
  next_try_at BIGINT NOT NULL,
  epoch BIGINT NOT NULL,
  created_at BIGINT NOT NULL,
  updated_at BIGINT NOT NULL,
  CHECK ((chain IS NULL) = (key_sealed IS NULL)),
  CHECK ((chain IS NULL) = (not_before IS NULL)),
  CHECK ((chain IS NULL) = (not_after IS NULL)),
  CHECK (state <> 'valid' OR chain IS NOT NULL)
)
;
CREATE INDEX certificate_by_epoch ON certificate (epoch, hostname)
;
CREATE INDEX certificate_by_next_try ON certificate (next_try_at)
;
CREATE TABLE acme_account (
  directory VARCHAR(500) NOT NULL PRIMARY KEY,
  credentials_sealed TEXT NOT NULL,
  created_at BIGINT NOT NULL
)
;
CREATE TABLE acme_challenge (
  token VARCHAR(255) NOT NULL PRIMARY KEY,
  hostname VARCHAR(253) NOT NULL,
  kind VARCHAR(16) NOT NULL CHECK (kind IN ('http-01', 'tls-alpn-01')),
  key_authorization VARCHAR(500) NOT NULL,
  expires_at BIGINT NOT NULL
)
;
CREATE TABLE acme_attempt (
  id VARCHAR(32) NOT NULL PRIMARY KEY,
  directory VARCHAR(500) NOT NULL,
  org_id VARCHAR(32) NOT NULL,
  hostname VARCHAR(253) NOT NULL,
  registrable VARCHAR(253) NOT NULL,
  at BIGINT NOT NULL,
  may_have_certificate BOOLEAN NOT NULL,
  may_have_failed BOOLEAN NOT NULL
)
;
CREATE INDEX acme_attempt_by_directory ON acme_attempt (directory, at)
;
CREATE INDEX acme_attempt_by_registrable ON acme_attempt (registrable, at)
;
CREATE TABLE certificate_lease (
  id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
  owner VARCHAR(64) NULL,
  fence BIGINT NOT NULL,
  lease_until BIGINT NULL,
  epoch BIGINT NOT NULL
)
;
INSERT INTO certificate_lease (id, fence, epoch) VALUES (1, 0, 1)
