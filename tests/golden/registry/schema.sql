-- index api_key_by_tenant
CREATE INDEX api_key_by_tenant ON api_key (tenant_id);

-- index audit_by_live
CREATE INDEX audit_by_live ON audit (sequence) WHERE to_stage = 'live' OR from_stage = 'live';

-- index audit_by_subject
CREATE INDEX audit_by_subject ON audit (subject, sequence);

-- index base_name_is_unique
CREATE UNIQUE INDEX base_name_is_unique ON base (name) WHERE removed_at IS NULL;

-- index evidence_by_subject
CREATE INDEX evidence_by_subject ON evidence (subject);

-- index statement_by_subject
CREATE INDEX statement_by_subject ON statement (subject, sequence);

-- index tenant_name_is_unique
CREATE UNIQUE INDEX tenant_name_is_unique ON tenant (name) WHERE removed_at IS NULL;

-- index version_by_base
CREATE INDEX version_by_base ON version (base_id);

-- index version_by_digest
CREATE INDEX version_by_digest ON version (digest);

-- index version_by_stage
CREATE INDEX version_by_stage ON version (stage, name);

-- index version_live_is_unique
CREATE UNIQUE INDEX version_live_is_unique ON version (name) WHERE stage = 'live';

-- table api_key
CREATE TABLE api_key (
    prefix TEXT PRIMARY KEY CHECK (length(prefix) = 12 AND prefix NOT GLOB '*[^0-9a-f]*'),
    tenant_id INTEGER NOT NULL REFERENCES tenant (id),
    digest TEXT NOT NULL
        CHECK (length(digest) = 76 AND digest GLOB 'hmac-sha256:*' AND substr(digest, 13) NOT GLOB '*[^0-9a-f]*'),
    created_at TEXT NOT NULL CHECK (created_at GLOB '????-??-??T??:??:??.??????Z'),
    created_by TEXT NOT NULL CHECK (length(created_by) > 0),
    expires_at TEXT CHECK (expires_at GLOB '????-??-??T??:??:??.??????Z'),
    revoked_at TEXT CHECK (revoked_at GLOB '????-??-??T??:??:??.??????Z')
) STRICT, WITHOUT ROWID;

-- table audit
CREATE TABLE audit (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL CHECK (at GLOB '????-??-??T??:??:??.??????Z'),
    actor TEXT NOT NULL CHECK (length(actor) > 0),
    action TEXT NOT NULL CHECK (action GLOB '[a-z]*.[a-z]*'),
    subject TEXT NOT NULL CHECK (length(subject) > 0),
    from_stage TEXT
        CHECK (from_stage IN ('draft', 'candidate', 'approved', 'live', 'retired', 'rejected', 'revoked')),
    to_stage TEXT
        CHECK (to_stage IN ('draft', 'candidate', 'approved', 'live', 'retired', 'rejected', 'revoked')),
    reason TEXT,
    detail TEXT NOT NULL CHECK (json_valid(detail)),
    digest TEXT NOT NULL
        CHECK (length(digest) = 71 AND digest GLOB 'sha256:*' AND substr(digest, 8) NOT GLOB '*[^0-9a-f]*')
) STRICT;

-- table base
CREATE TABLE base (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL COLLATE NOCASE
        CHECK (length(name) BETWEEN 1 AND 63 AND name GLOB '[a-z0-9]*' AND name NOT GLOB '*[^a-z0-9._-]*'),
    digest TEXT NOT NULL
        CHECK (length(digest) = 71 AND digest GLOB 'sha256:*' AND substr(digest, 8) NOT GLOB '*[^0-9a-f]*'),
    path TEXT NOT NULL CHECK (path GLOB '/*'),
    source TEXT NOT NULL,
    licence TEXT,
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
    file_count INTEGER NOT NULL CHECK (file_count > 0),
    manifest TEXT NOT NULL CHECK (json_valid(manifest)),
    signatures TEXT NOT NULL CHECK (json_valid(signatures)),
    config TEXT NOT NULL CHECK (json_valid(config)),
    added_at TEXT NOT NULL CHECK (added_at GLOB '????-??-??T??:??:??.??????Z'),
    added_by TEXT NOT NULL CHECK (length(added_by) > 0),
    removed_at TEXT CHECK (removed_at GLOB '????-??-??T??:??:??.??????Z')
) STRICT;

-- table content
CREATE TABLE content (
    digest TEXT PRIMARY KEY
        CHECK (length(digest) = 71 AND digest GLOB 'sha256:*' AND substr(digest, 8) NOT GLOB '*[^0-9a-f]*'),
    size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
    manifest TEXT NOT NULL CHECK (json_valid(manifest)),
    facts TEXT NOT NULL CHECK (json_valid(facts)),
    collected_at TEXT CHECK (collected_at GLOB '????-??-??T??:??:??.??????Z')
) STRICT, WITHOUT ROWID;

-- table evidence
CREATE TABLE evidence (
    statement TEXT NOT NULL PRIMARY KEY REFERENCES statement (digest),
    subject TEXT NOT NULL CHECK (length(subject) > 0),
    digest TEXT NOT NULL REFERENCES evidence_body (digest),
    metrics TEXT NOT NULL CHECK (json_valid(metrics))
) STRICT;

-- table evidence_body
CREATE TABLE evidence_body (
    digest TEXT NOT NULL PRIMARY KEY
        CHECK (length(digest) = 71 AND digest GLOB 'sha256:*' AND substr(digest, 8) NOT GLOB '*[^0-9a-f]*'),
    body BLOB NOT NULL
) STRICT;

-- table file_signature
CREATE TABLE file_signature (
    content TEXT NOT NULL REFERENCES content (digest),
    digest TEXT NOT NULL
        CHECK (length(digest) = 71 AND digest GLOB 'sha256:*' AND substr(digest, 8) NOT GLOB '*[^0-9a-f]*'),
    kind TEXT NOT NULL CHECK (kind IN ('key', 'keyless', 'shipped')),
    signer TEXT NOT NULL CHECK (length(signer) > 0),
    bundle TEXT NOT NULL CHECK (length(bundle) BETWEEN 1 AND 524288),
    at TEXT NOT NULL CHECK (at GLOB '????-??-??T??:??:??.??????Z'),
    PRIMARY KEY (content, digest)
) STRICT, WITHOUT ROWID;

-- table migration
CREATE TABLE migration (
    name TEXT PRIMARY KEY CHECK (name GLOB '[0-9][0-9][0-9][0-9]_*'),
    applied_at TEXT NOT NULL CHECK (applied_at GLOB '????-??-??T??:??:??.??????Z')
) STRICT, WITHOUT ROWID
;

-- table statement
CREATE TABLE statement (
    sequence INTEGER PRIMARY KEY CHECK (sequence >= 1),
    digest TEXT NOT NULL UNIQUE
        CHECK (length(digest) = 71 AND digest GLOB 'sha256:*' AND substr(digest, 8) NOT GLOB '*[^0-9a-f]*'),
    kind TEXT NOT NULL CHECK (length(kind) > 0),
    subject TEXT NOT NULL CHECK (length(subject) > 0),
    envelope TEXT NOT NULL CHECK (json_valid(envelope))
) STRICT;

-- table tenant
CREATE TABLE tenant (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL COLLATE NOCASE
        CHECK (length(name) BETWEEN 1 AND 63 AND name GLOB '[a-z0-9]*' AND name NOT GLOB '*[^a-z0-9._-]*'),
    adapters TEXT NOT NULL CHECK (json_valid(adapters)),
    data_classes TEXT NOT NULL CHECK (json_valid(data_classes)),
    weight REAL NOT NULL CHECK (weight BETWEEN 0.001 AND 1000.0),
    added_at TEXT NOT NULL CHECK (added_at GLOB '????-??-??T??:??:??.??????Z'),
    added_by TEXT NOT NULL CHECK (length(added_by) > 0),
    removed_at TEXT CHECK (removed_at GLOB '????-??-??T??:??:??.??????Z')
, priority TEXT NOT NULL DEFAULT 'standard'
    CHECK (priority IN ('interactive', 'standard', 'batch'))) STRICT;

-- table tenant_limit
CREATE TABLE tenant_limit (
    tenant_id INTEGER NOT NULL REFERENCES tenant (id),
    adapter TEXT NOT NULL CHECK (length(adapter) <= 63 AND adapter NOT GLOB '*[^a-z0-9._-]*'),
    requests_per_minute INTEGER CHECK (requests_per_minute >= 1),
    tokens_per_minute INTEGER CHECK (tokens_per_minute >= 1),
    concurrent INTEGER CHECK (concurrent >= 1),
    tokens_per_day INTEGER CHECK (tokens_per_day >= 1),
    max_context INTEGER CHECK (max_context >= 1),
    max_output INTEGER CHECK (max_output >= 1),
    PRIMARY KEY (tenant_id, adapter)
) STRICT, WITHOUT ROWID;

-- table version
CREATE TABLE version (
    name TEXT NOT NULL COLLATE NOCASE
        CHECK (length(name) BETWEEN 1 AND 63 AND name GLOB '[a-z0-9]*' AND name NOT GLOB '*[^a-z0-9._-]*'),
    number INTEGER NOT NULL CHECK (number BETWEEN 1 AND 2147483647),
    stage TEXT NOT NULL
        CHECK (stage IN ('draft', 'candidate', 'approved', 'live', 'retired', 'rejected', 'revoked')),
    digest TEXT NOT NULL REFERENCES content (digest),
    base_id INTEGER REFERENCES base (id),
    provenance TEXT NOT NULL CHECK (json_valid(provenance)),
    added_at TEXT NOT NULL CHECK (added_at GLOB '????-??-??T??:??:??.??????Z'),
    added_by TEXT NOT NULL CHECK (length(added_by) > 0),
    PRIMARY KEY (name, number),
    UNIQUE (name, digest),
    CHECK (base_id IS NOT NULL OR stage IN ('draft', 'rejected', 'revoked'))
) STRICT, WITHOUT ROWID;

-- trigger api_key_is_immutable
CREATE TRIGGER api_key_is_immutable
BEFORE UPDATE OF prefix, tenant_id, digest, created_at, created_by, expires_at ON api_key
BEGIN SELECT RAISE (ABORT, 'an API key is immutable but for its revocation'); END;

-- trigger api_key_refuses_delete
CREATE TRIGGER api_key_refuses_delete BEFORE DELETE ON api_key
BEGIN SELECT RAISE (ABORT, 'an API key is revoked, never deleted'); END;

-- trigger api_key_refuses_replace
CREATE TRIGGER api_key_refuses_replace BEFORE INSERT ON api_key
WHEN EXISTS (SELECT 1 FROM api_key WHERE prefix = NEW.prefix)
BEGIN SELECT RAISE (ABORT, 'an API key is never replaced'); END;

-- trigger api_key_stays_revoked
CREATE TRIGGER api_key_stays_revoked BEFORE UPDATE OF revoked_at ON api_key
WHEN OLD.revoked_at IS NOT NULL
BEGIN SELECT RAISE (ABORT, 'revoked is terminal'); END;

-- trigger audit_refuses_delete
CREATE TRIGGER audit_refuses_delete BEFORE DELETE ON audit
BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END;

-- trigger audit_refuses_replace
CREATE TRIGGER audit_refuses_replace BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE sequence = NEW.sequence)
BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END;

-- trigger audit_refuses_update
CREATE TRIGGER audit_refuses_update BEFORE UPDATE ON audit
BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END;

-- trigger base_is_immutable
CREATE TRIGGER base_is_immutable BEFORE UPDATE OF name, digest, size_bytes, file_count, manifest, config ON base
BEGIN SELECT RAISE (ABORT, 'a base is immutable but for where its files are'); END;

-- trigger base_name_is_no_version
CREATE TRIGGER base_name_is_no_version BEFORE INSERT ON base
WHEN EXISTS (SELECT 1 FROM version WHERE name = NEW.name)
BEGIN SELECT RAISE (ABORT, 'the name belongs to an adapter'); END;

-- trigger base_refuses_delete
CREATE TRIGGER base_refuses_delete BEFORE DELETE ON base
BEGIN SELECT RAISE (ABORT, 'a base is removed by its date, never deleted'); END;

-- trigger content_is_immutable
CREATE TRIGGER content_is_immutable BEFORE UPDATE OF digest, size_bytes, manifest, facts ON content
BEGIN SELECT RAISE (ABORT, 'a content is immutable'); END;

-- trigger content_refuses_delete
CREATE TRIGGER content_refuses_delete BEFORE DELETE ON content
BEGIN SELECT RAISE (ABORT, 'a content is never deleted'); END;

-- trigger evidence_body_refuses_delete
CREATE TRIGGER evidence_body_refuses_delete BEFORE DELETE ON evidence_body
BEGIN SELECT RAISE (ABORT, 'evidence is append-only'); END;

-- trigger evidence_body_refuses_replace
CREATE TRIGGER evidence_body_refuses_replace BEFORE INSERT ON evidence_body
WHEN EXISTS (SELECT 1 FROM evidence_body WHERE digest = NEW.digest)
BEGIN SELECT RAISE (ABORT, 'evidence is append-only'); END;

-- trigger evidence_body_refuses_update
CREATE TRIGGER evidence_body_refuses_update BEFORE UPDATE ON evidence_body
BEGIN SELECT RAISE (ABORT, 'evidence is append-only'); END;

-- trigger evidence_refuses_delete
CREATE TRIGGER evidence_refuses_delete BEFORE DELETE ON evidence
BEGIN SELECT RAISE (ABORT, 'evidence is append-only'); END;

-- trigger evidence_refuses_replace
CREATE TRIGGER evidence_refuses_replace BEFORE INSERT ON evidence
WHEN EXISTS (SELECT 1 FROM evidence WHERE statement = NEW.statement)
BEGIN SELECT RAISE (ABORT, 'evidence is append-only'); END;

-- trigger evidence_refuses_update
CREATE TRIGGER evidence_refuses_update BEFORE UPDATE ON evidence
BEGIN SELECT RAISE (ABORT, 'evidence is append-only'); END;

-- trigger file_signature_refuses_delete
CREATE TRIGGER file_signature_refuses_delete BEFORE DELETE ON file_signature
BEGIN SELECT RAISE (ABORT, 'signatures are append-only'); END;

-- trigger file_signature_refuses_replace
CREATE TRIGGER file_signature_refuses_replace BEFORE INSERT ON file_signature
WHEN EXISTS (SELECT 1 FROM file_signature WHERE content = NEW.content AND digest = NEW.digest)
BEGIN SELECT RAISE (ABORT, 'signatures are append-only'); END;

-- trigger file_signature_refuses_update
CREATE TRIGGER file_signature_refuses_update BEFORE UPDATE ON file_signature
BEGIN SELECT RAISE (ABORT, 'signatures are append-only'); END;

-- trigger removed_tenant_is_immutable
CREATE TRIGGER removed_tenant_is_immutable BEFORE UPDATE ON tenant
WHEN OLD.removed_at IS NOT NULL
BEGIN SELECT RAISE (ABORT, 'a removed tenant is not changed'); END;

-- trigger revoked_is_terminal
CREATE TRIGGER revoked_is_terminal BEFORE UPDATE OF stage ON version
WHEN OLD.stage = 'revoked'
BEGIN SELECT RAISE (ABORT, 'revoked is terminal'); END;

-- trigger statement_leaves_no_gap
CREATE TRIGGER statement_leaves_no_gap BEFORE INSERT ON statement
WHEN NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM statement)
BEGIN SELECT RAISE (ABORT, 'statements are append-only'); END;

-- trigger statement_refuses_delete
CREATE TRIGGER statement_refuses_delete BEFORE DELETE ON statement
BEGIN SELECT RAISE (ABORT, 'statements are append-only'); END;

-- trigger statement_refuses_update
CREATE TRIGGER statement_refuses_update BEFORE UPDATE ON statement
BEGIN SELECT RAISE (ABORT, 'statements are append-only'); END;

-- trigger tenant_keeps_its_name
CREATE TRIGGER tenant_keeps_its_name BEFORE UPDATE OF id, name, added_at, added_by ON tenant
BEGIN SELECT RAISE (ABORT, 'a tenant keeps its name'); END;

-- trigger tenant_refuses_delete
CREATE TRIGGER tenant_refuses_delete BEFORE DELETE ON tenant
BEGIN SELECT RAISE (ABORT, 'a tenant is removed by its date, never deleted'); END;

-- trigger version_is_immutable
CREATE TRIGGER version_is_immutable
BEFORE UPDATE OF name, number, digest, provenance, added_at, added_by ON version
BEGIN SELECT RAISE (ABORT, 'a version is immutable but for its stage'); END;

-- trigger version_keeps_its_base
CREATE TRIGGER version_keeps_its_base BEFORE UPDATE OF base_id ON version
WHEN OLD.base_id IS NOT NULL AND NEW.base_id IS NOT OLD.base_id
BEGIN SELECT RAISE (ABORT, 'a version keeps its base'); END;

-- trigger version_name_is_no_base
CREATE TRIGGER version_name_is_no_base BEFORE INSERT ON version
WHEN EXISTS (SELECT 1 FROM base WHERE name = NEW.name AND removed_at IS NULL)
BEGIN SELECT RAISE (ABORT, 'the name belongs to a base'); END;

-- trigger version_refuses_delete
CREATE TRIGGER version_refuses_delete BEFORE DELETE ON version
BEGIN SELECT RAISE (ABORT, 'a version is never deleted'); END;

-- trigger version_refuses_replace
CREATE TRIGGER version_refuses_replace BEFORE INSERT ON version
WHEN EXISTS (
    SELECT 1 FROM version
    WHERE name = NEW.name AND (number = NEW.number OR digest = NEW.digest OR (stage = 'live' AND NEW.stage = 'live'))
)
BEGIN SELECT RAISE (ABORT, 'a version is never replaced'); END;

