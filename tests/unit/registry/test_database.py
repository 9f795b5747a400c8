"""The database: pragmas, migrations, refusals, and a schema that holds on its own."""

import sqlite3
import threading
from pathlib import Path

import pytest

from loractl_registry._store import audit, statements
from loractl_registry._store import database as database_module
from loractl_registry._store.audit import NewEvent
from loractl_registry._store.database import Database
from loractl_registry._store.migrate import apply_migrations, known_migrations, statements_of
from loractl_registry._store.schema import check_schema, migrated_schema, schema_text
from loractl_registry._store.statements import StoredStatement
from loractl_registry.clock import from_text, utc_now
from loractl_registry.home_errors import (
    DamagedDatabaseError,
    LockedError,
    NewerDatabaseError,
    ReadOnlyError,
    StorageError,
)

GOLDEN = Path(__file__).parents[2] / "golden/registry/schema.sql"
DIGEST = f"sha256:{'a' * 64}"
NOW = "2026-01-31T09:00:00.000000Z"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "registry.db"


@pytest.fixture
def database(path):
    with Database.open(path, clock=utc_now, busy_timeout_s=0.05) as opened:
        yield opened


def put_version(connection, number=1, stage="draft", digest=DIGEST, base_id=None, name="bot"):
    connection.execute(
        "INSERT OR IGNORE INTO content (digest, size_bytes, manifest, facts) VALUES (?, 1, '[]', '{}')", (digest,)
    )
    connection.execute(
        "INSERT INTO version (name, number, stage, digest, base_id, provenance, added_at, added_by)"
        " VALUES (?, ?, ?, ?, ?, '{}', ?, 'ada')",
        (name, number, stage, digest, base_id, NOW),
    )


def put_base(connection, name="tiny"):
    connection.execute(
        "INSERT INTO base (name, digest, path, source, size_bytes, file_count, manifest, signatures, config,"
        " added_at, added_by) VALUES (?, ?, '/b', '/b', 1, 1, '[]', '{}', '{}', ?, 'ada')",
        (name, DIGEST, NOW),
    )


def put_event(connection):
    audit.append(connection, NewEvent("adapter.add", "bot@1", "ada", from_text(NOW)))


def put_statement(connection, sequence=1):
    digest = f"sha256:{sequence:064x}"
    statements.append(connection, StoredStatement(sequence, digest, "promotion", "bot@1", b"{}"))


def test_schema_is_the_golden_one(pytestconfig):
    text = schema_text(migrated_schema())

    if pytestconfig.getoption("--update-goldens", default=False):
        GOLDEN.write_text(text)

    assert GOLDEN.read_text() == text


def test_fresh_database_matches_migrations_and_declaration(database):
    with database.reading() as connection:
        assert check_schema(connection) == ()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("DROP TRIGGER revoked_is_terminal", "trigger revoked_is_terminal is missing"),
        ("CREATE TABLE notes (text TEXT)", "table notes was added by somebody else"),
        ("ALTER TABLE content ADD COLUMN colour TEXT", "table content was altered"),
    ],
)
def test_schema_drift_is_named(database, change, line):
    with database.writing() as connection:
        connection.execute(change)

    with database.reading() as connection:
        assert line in check_schema(connection)


@pytest.mark.parametrize(
    ("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("recursive_triggers", 1)]
)
def test_connection_is_durable_and_strict(database, pragma, value):
    with database.reading() as connection:
        assert connection.execute(f"PRAGMA {pragma}").fetchone() == (value,)


def test_opening_again_applies_nothing(database, path):
    with Database.open(path, clock=utc_now, busy_timeout_s=0.05) as again, again.reading() as connection:
        applied = [name for (name,) in connection.execute("SELECT name FROM migration")]

    assert applied == list(known_migrations())


def test_newer_database_is_refused_in_one_sentence(database, path):
    with database.writing() as connection:
        connection.execute("INSERT INTO migration VALUES ('9999_from_the_future', ?)", (NOW,))

    with pytest.raises(NewerDatabaseError) as caught:
        Database.open(path, clock=utc_now, busy_timeout_s=0.05)

    assert "newer loractl" in str(caught.value)
    assert "9999_from_the_future" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_that_is_no_database_is_refused_and_kept(path):
    path.write_bytes(b"this is not a database, it is a poem" * 100)
    before = path.read_bytes()

    with pytest.raises(DamagedDatabaseError) as caught:
        Database.open(path, clock=utc_now, busy_timeout_s=0.05)

    assert str(path) in str(caught.value)
    assert "backup" in caught.value.hint
    assert path.read_bytes() == before


def test_database_of_another_program_is_refused(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()

    with pytest.raises(DamagedDatabaseError, match="another program"):
        Database.open(path, clock=utc_now, busy_timeout_s=0.05)


def test_malformed_page_is_a_damaged_database(database, path):
    with database.writing() as connection:
        for number in range(1, 300):
            put_version(connection, number, digest=f"sha256:{number:064x}")
    database.close()
    data = bytearray(path.read_bytes())
    data[4096:] = b"\x55" * (len(data) - 4096)
    path.write_bytes(data)

    def read():
        with Database.open(path, clock=utc_now, busy_timeout_s=0.05) as damaged, damaged.reading() as connection:
            connection.execute("SELECT * FROM version").fetchall()

    with pytest.raises(DamagedDatabaseError):
        read()


def test_locked_database_is_a_conflict_after_the_timeout(database, path):
    with (
        Database.open(path, clock=utc_now, busy_timeout_s=0.05) as other,
        other.writing(),
        pytest.raises(LockedError) as caught,
        database.writing(),
    ):
        pass

    assert caught.value.code == "registry.locked"
    assert caught.value.hint


def test_readers_do_not_wait_for_a_writer(database, path):
    with Database.open(path, clock=utc_now, busy_timeout_s=0.05) as other, other.writing() as connection:
        put_event(connection)

        with database.reading() as reader:
            assert reader.execute("SELECT count(*) FROM audit").fetchone() == (0,)


def test_folder_in_place_of_the_database_is_a_clear_error(path):
    path.mkdir()

    with pytest.raises((ReadOnlyError, StorageError)) as caught:
        Database.open(path, clock=utc_now, busy_timeout_s=0.05)

    assert str(path) in str(caught.value)


def test_failed_transaction_leaves_nothing(database):
    def fail():
        with database.writing() as connection:
            put_event(connection)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    with database.reading() as connection:
        assert connection.execute("SELECT count(*) FROM audit").fetchone() == (0,)


def test_changes_differ_after_own_and_foreign_commits(database, path):
    seen = [database.changes()]

    with database.writing() as connection:
        put_event(connection)
    seen.append(database.changes())
    with Database.open(path, clock=utc_now, busy_timeout_s=0.05) as other, other.writing() as connection:
        put_event(connection)
    seen.append(database.changes())

    assert len(set(seen)) == 3
    assert database.changes() == seen[-1]


def test_one_database_serves_many_threads(database):
    def work():
        for _ in range(20):
            with database.writing() as connection:
                put_event(connection)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with database.reading() as connection:
        assert connection.execute("SELECT count(*) FROM audit").fetchone() == (80,)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET actor = 'eve'",
        "DELETE FROM audit",
        f"INSERT OR REPLACE INTO audit (sequence, at, actor, action, subject, detail, digest)"
        f" VALUES (1, '{NOW}', 'eve', 'adapter.add', 'bot@1', '{{}}', '{DIGEST}')",
        "UPDATE statement SET envelope = '{}'",
        "UPDATE statement SET sequence = 9",
        "DELETE FROM statement",
        f"INSERT OR REPLACE INTO statement VALUES (1, '{DIGEST}', 'promotion', 'bot@1', '{{}}')",
        f"INSERT INTO statement VALUES (3, '{DIGEST}', 'promotion', 'bot@1', '{{}}')",
        "DELETE FROM version",
        "UPDATE version SET number = 7",
        "UPDATE version SET digest = 'sha256:' || lower(hex(randomblob(32)))",
        "UPDATE version SET added_by = 'eve'",
        "UPDATE version SET stage = 'live' WHERE number = 2",
        "UPDATE version SET stage = 'published'",
        "UPDATE version SET stage = 'candidate' WHERE base_id IS NULL",
        "UPDATE version SET base_id = 99 WHERE number = 3",
        f"INSERT OR REPLACE INTO version VALUES ('bot', 1, 'draft', '{DIGEST}', NULL, '{{}}', '{NOW}', 'eve')",
        "DELETE FROM content",
        "UPDATE content SET facts = '{}'",
        "DELETE FROM base",
        "UPDATE base SET digest = 'sha256:' || lower(hex(randomblob(32)))",
        "UPDATE version SET base_id = NULL WHERE base_id IS NOT NULL",
    ],
)
def test_history_cannot_be_edited(database, statement):
    with database.writing() as connection:
        put_base(connection)
        put_version(connection)
        put_version(connection, 2, "revoked", digest=f"sha256:{'b' * 64}", base_id=1)
        put_version(connection, 3, digest=f"sha256:{'c' * 64}")
        put_event(connection)
        put_statement(connection)

    with pytest.raises(StorageError), database.writing() as connection:
        connection.execute(statement)


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "Bot"},
        {"name": "a:b"},
        {"name": ""},
        {"name": "-bot"},
        {"name": "b" * 64},
        {"name": "bøt"},
        {"number": 0},
        {"number": 2**31},
        {"digest": "md5:abc"},
        {"digest": f"sha256:{'A' * 64}"},
        {"stage": "live"},
        {"base_id": 99},
    ],
)
def test_row_that_breaks_a_rule_is_refused(database, arguments):
    with pytest.raises(StorageError), database.writing() as connection:
        put_version(connection, **arguments)


def test_only_one_version_of_a_name_is_live(database):
    with database.writing() as connection:
        put_base(connection)
        put_version(connection, 1, "live", base_id=1)
        put_version(connection, 2, "approved", f"sha256:{'b' * 64}", base_id=1)

    with pytest.raises(StorageError), database.writing() as connection:
        connection.execute("UPDATE version SET stage = 'live' WHERE number = 2")


@pytest.mark.parametrize("first", [put_base, put_version])
def test_adapter_and_base_never_share_a_name(database, first):
    second = put_version if first is put_base else put_base
    with database.writing() as connection:
        first(connection, name="bot")

    with pytest.raises(StorageError), database.writing() as connection:
        second(connection, name="bot")


def test_script_is_split_at_statements_and_not_inside_triggers():
    script = "-- about\n\nCREATE TABLE a (x);\nCREATE TRIGGER t BEFORE DELETE ON a\nBEGIN SELECT 1; SELECT 2; END;\n"

    assert [statement.split()[1] for statement in statements_of(script)] == ["TABLE", "TRIGGER"]


def test_failed_migration_leaves_an_empty_database(path, monkeypatch):
    def fail(connection, names, at):
        connection.execute("CREATE TABLE half (x)")
        raise RuntimeError

    monkeypatch.setattr(database_module, "apply_migrations", fail)
    with pytest.raises(RuntimeError):
        Database.open(path, clock=utc_now, busy_timeout_s=0.05)
    monkeypatch.undo()

    with Database.open(path, clock=utc_now, busy_timeout_s=0.05) as database, database.reading() as connection:
        assert check_schema(connection) == ()


def test_database_of_an_older_loractl_gets_the_new_tables_and_keeps_what_it_has(path):
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        apply_migrations(connection, known_migrations()[:2], NOW)
        put_statement(connection)
    connection.close()

    with Database.open(path, clock=utc_now, busy_timeout_s=0.05) as database, database.reading() as connection:
        assert check_schema(connection) == ()
        assert statements.count(connection) == 1


def test_audit_log_of_an_older_loractl_is_chained_and_numbered_on(path):
    with sqlite3.connect(path, isolation_level=None) as connection:
        apply_migrations(connection, known_migrations()[:1], NOW)
        connection.executemany(
            "INSERT INTO audit (at, actor, action, subject, detail) VALUES (?, 'ada', 'adapter.add', ?, '{}')",
            [(NOW, f"bot@{number}") for number in range(1, 40)],
        )
    connection.close()

    with Database.open(path, clock=utc_now, busy_timeout_s=0.05) as database:
        with database.writing() as connection:
            put_event(connection)
        with database.reading() as connection:
            assert check_schema(connection) == ()
            assert list(audit.broken_links(connection)) == []
            assert [event.sequence for event in audit.events(connection)] == list(range(1, 41))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        pytest.param("UPDATE audit SET actor = 'eve' WHERE sequence = 2", "audit row 2", id="edited"),
        pytest.param("DELETE FROM audit WHERE sequence = 2", "rows 2 to 2 are missing", id="deleted"),
        pytest.param("DELETE FROM audit WHERE sequence = 4", "rows 4 to 4 are missing", id="cut-and-written-on"),
        pytest.param(
            "UPDATE audit SET sequence = CASE sequence WHEN 2 THEN 30 ELSE 20 END WHERE sequence IN (2, 3)",
            "are missing",
            id="reordered",
        ),
    ],
)
def test_audit_log_that_was_edited_by_hand_is_told(database, change, line):
    with database.writing() as connection:
        for _ in range(4):
            put_event(connection)
        for trigger in ("audit_refuses_update", "audit_refuses_delete", "audit_refuses_replace"):
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute(change)
        put_event(connection)

    with database.reading() as connection:
        assert any(line in told for told in audit.broken_links(connection))
