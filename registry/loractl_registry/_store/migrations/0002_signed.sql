-- Signed statements, and an audit log whose every row is chained to the one before.

CREATE TABLE statement (
    sequence INTEGER PRIMARY KEY CHECK (sequence >= 1),
    digest TEXT NOT NULL UNIQUE
        CHECK (length(digest) = 71 AND digest GLOB 'sha256:*' AND substr(digest, 8) NOT GLOB '*[^0-9a-f]*'),
    kind TEXT NOT NULL CHECK (length(kind) > 0),
    subject TEXT NOT NULL CHECK (length(subject) > 0),
    envelope TEXT NOT NULL CHECK (json_valid(envelope))
) STRICT;

CREATE INDEX statement_by_subject ON statement (subject, sequence);

CREATE TRIGGER statement_refuses_update BEFORE UPDATE ON statement
BEGIN SELECT RAISE (ABORT, 'statements are append-only'); END;

CREATE TRIGGER statement_refuses_delete BEFORE DELETE ON statement
BEGIN SELECT RAISE (ABORT, 'statements are append-only'); END;

-- Refuses INSERT OR REPLACE as well, which deletes without firing the trigger above.
CREATE TRIGGER statement_leaves_no_gap BEFORE INSERT ON statement
WHEN NEW.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM statement)
BEGIN SELECT RAISE (ABORT, 'statements are append-only'); END;

ALTER TABLE audit RENAME TO audit_unchained;

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

-- audit_digest remembers the digest of the row before; rows come in the order of the table, which needs no sorting.
INSERT INTO audit
SELECT
    sequence, at, actor, action, subject, from_stage, to_stage, reason, detail,
    audit_digest(sequence, at, actor, action, subject, from_stage, to_stage, reason, detail)
FROM audit_unchained ORDER BY sequence;

DROP TABLE audit_unchained;

CREATE INDEX audit_by_subject ON audit (subject, sequence);
CREATE INDEX audit_by_live ON audit (sequence) WHERE to_stage = 'live' OR from_stage = 'live';

CREATE TRIGGER audit_refuses_update BEFORE UPDATE ON audit
BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END;

CREATE TRIGGER audit_refuses_delete BEFORE DELETE ON audit
BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END;

-- INSERT OR REPLACE deletes without firing the trigger above.
CREATE TRIGGER audit_refuses_replace BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE sequence = NEW.sequence)
BEGIN SELECT RAISE (ABORT, 'the audit log is append-only'); END;
