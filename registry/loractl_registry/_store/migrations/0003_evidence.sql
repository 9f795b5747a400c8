-- Signatures over files, and evidence: the bytes that signed statements name by digest.

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

CREATE TRIGGER file_signature_refuses_update BEFORE UPDATE ON file_signature
BEGIN SELECT RAISE (ABORT, 'signatures are append-only'); END;

CREATE TRIGGER file_signature_refuses_delete BEFORE DELETE ON file_signature
BEGIN SELECT RAISE (ABORT, 'signatures are append-only'); END;

-- INSERT OR REPLACE deletes without firing the trigger above.
CREATE TRIGGER file_signature_refuses_replace BEFORE INSERT ON file_signature
WHEN EXISTS (SELECT 1 FROM file_signature WHERE content = NEW.content AND digest = NEW.digest)
BEGIN SELECT RAISE (ABORT, 'signatures are append-only'); END;

CREATE TABLE evidence_body (
    digest TEXT NOT NULL PRIMARY KEY
        CHECK (length(digest) = 71 AND digest GLOB 'sha256:*' AND substr(digest, 8) NOT GLOB '*[^0-9a-f]*'),
    body BLOB NOT NULL
) STRICT;

CREATE TABLE evidence (
    statement TEXT NOT NULL PRIMARY KEY REFERENCES statement (digest),
    subject TEXT NOT NULL CHECK (length(subject) > 0),
    digest TEXT NOT NULL REFERENCES evidence_body (digest),
    metrics TEXT NOT NULL CHECK (json_valid(metrics))
) STRICT;

CREATE INDEX evidence_by_subject ON evidence (subject);

CREATE TRIGGER evidence_body_refuses_update BEFORE UPDATE ON evidence_body
BEGIN SELECT RAISE (ABORT, 'evidence is append-only'); END;

CREATE TRIGGER evidence_body_refuses_delete BEFORE DELETE ON evidence_body
BEGIN SELECT RAISE (ABORT, 'evidence is append-only'); END;

CREATE TRIGGER evidence_body_refuses_replace BEFORE INSERT ON evidence_body
WHEN EXISTS (SELECT 1 FROM evidence_body WHERE digest = NEW.digest)
BEGIN SELECT RAISE (ABORT, 'evidence is append-only'); END;

CREATE TRIGGER evidence_refuses_update BEFORE UPDATE ON evidence
BEGIN SELECT RAISE (ABORT, 'evidence is append-only'); END;

CREATE TRIGGER evidence_refuses_delete BEFORE DELETE ON evidence
BEGIN SELECT RAISE (ABORT, 'evidence is append-only'); END;

CREATE TRIGGER evidence_refuses_replace BEFORE INSERT ON evidence
WHEN EXISTS (SELECT 1 FROM evidence WHERE statement = NEW.statement)
BEGIN SELECT RAISE (ABORT, 'evidence is append-only'); END;
