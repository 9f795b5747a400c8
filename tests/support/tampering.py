"""What somebody with write access to a home can do to its database: past the triggers, which only stop mistakes."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

from loractl_registry import Registry

DATABASE = "registry.db"


def run_sql(home: Path, *statements: str) -> None:
    """Run `statements` on the database of `home` with every trigger out of the way, and put the triggers back."""
    with sqlite3.connect(home / DATABASE, isolation_level=None) as connection:
        connection.execute("PRAGMA busy_timeout = 5000")
        triggers = connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        connection.execute("BEGIN IMMEDIATE")
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            connection.execute(statement)
        for _, sql in triggers:
            connection.execute(sql)
        connection.execute("COMMIT")
    connection.close()


def copied(home: Path, to: Path) -> Path:
    """Copy the database as a backup does."""
    with Registry.open(home) as registry:
        return registry.backup(to)


def restored(home: Path, backup: Path) -> None:
    """Put an older database in the place of the one that is there."""
    for suffix in ("-wal", "-shm"):
        Path(f"{home / DATABASE}{suffix}").unlink(missing_ok=True)
    shutil.copy(backup, home / "restored.db")
    (home / "restored.db").replace(home / DATABASE)


def made_older(home: Path) -> None:
    """Take away everything that was signed, which leaves a home as loractl had them before."""
    run_sql(home, *WIPE, "DELETE FROM file_signature")
    (home / "checkpoint.json").unlink()
    shutil.rmtree(home / "keys")


FLIP = ("UPDATE version SET stage = 'live' WHERE name = 'sly'",)
RENAME = ("UPDATE version SET name = 'evil' WHERE name = 'bot'",)
RENUMBER = ("UPDATE version SET number = 7 WHERE name = 'bot'",)
SWAP = ("UPDATE version SET digest = (SELECT digest FROM version WHERE name = 'sly') WHERE name = 'bot'",)
REBIND = ("UPDATE base SET digest = 'sha256:' || printf('%064d', 1)",)
UNREVOKE = ("UPDATE version SET stage = 'live' WHERE name = 'gone'",)
REPLAY = (
    "INSERT INTO statement SELECT (SELECT max(sequence) + 1 FROM statement), 'sha256:' || printf('%064d', 2), kind,"
    " subject, envelope FROM statement WHERE subject = 'gone@1' ORDER BY sequence LIMIT 1",
)
REORDER = (
    "UPDATE statement SET sequence = sequence + 1000 WHERE sequence IN (2, 3)",
    "UPDATE statement SET sequence = CASE sequence WHEN 1002 THEN 3 ELSE 2 END WHERE sequence > 1000",
)
CUT = ("DELETE FROM statement WHERE sequence = (SELECT max(sequence) FROM statement)",)
HOLE = ("DELETE FROM statement WHERE sequence = 3",)
WIPE = ("DELETE FROM statement",)
