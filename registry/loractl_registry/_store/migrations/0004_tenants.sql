-- Tenants, what they may use and how much of it, and the keyed hashes of their API keys.

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
) STRICT;

CREATE UNIQUE INDEX tenant_name_is_unique ON tenant (name) WHERE removed_at IS NULL;

-- The limits of a tenant in all are those for the adapter ''.
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

CREATE INDEX api_key_by_tenant ON api_key (tenant_id);

CREATE TRIGGER tenant_refuses_delete BEFORE DELETE ON tenant
BEGIN SELECT RAISE (ABORT, 'a tenant is removed by its date, never deleted'); END;

CREATE TRIGGER tenant_keeps_its_name BEFORE UPDATE OF id, name, added_at, added_by ON tenant
BEGIN SELECT RAISE (ABORT, 'a tenant keeps its name'); END;

CREATE TRIGGER removed_tenant_is_immutable BEFORE UPDATE ON tenant
WHEN OLD.removed_at IS NOT NULL
BEGIN SELECT RAISE (ABORT, 'a removed tenant is not changed'); END;

CREATE TRIGGER api_key_refuses_delete BEFORE DELETE ON api_key
BEGIN SELECT RAISE (ABORT, 'an API key is revoked, never deleted'); END;

-- INSERT OR REPLACE deletes without firing the trigger above.
CREATE TRIGGER api_key_refuses_replace BEFORE INSERT ON api_key
WHEN EXISTS (SELECT 1 FROM api_key WHERE prefix = NEW.prefix)
BEGIN SELECT RAISE (ABORT, 'an API key is never replaced'); END;

CREATE TRIGGER api_key_is_immutable
BEFORE UPDATE OF prefix, tenant_id, digest, created_at, created_by, expires_at ON api_key
BEGIN SELECT RAISE (ABORT, 'an API key is immutable but for its revocation'); END;

CREATE TRIGGER api_key_stays_revoked BEFORE UPDATE OF revoked_at ON api_key
WHEN OLD.revoked_at IS NOT NULL
BEGIN SELECT RAISE (ABORT, 'revoked is terminal'); END;
