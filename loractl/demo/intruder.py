"""What somebody does who can write to the home: edit rows, play a statement again, put an old database back."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

INTRUDER = "mallory"
_DATABASE = "registry.db"


def flip_stage_sql(name: str, stage: str) -> str:
    """Return the SQL that puts version 1 of `name` into another stage."""
    return f"UPDATE version SET stage = '{stage}' WHERE name = '{name}' AND number = 1"  # noqa: S608  # our own words


def replay_sql(ref: str) -> str:
    """Return the SQL that appends a copy of the newest statement about `ref` to the chain."""
    digest = "'sha256:' || printf('%064d', 1)"
    last = "(SELECT max(sequence) + 1 FROM statement)"
    return (
        f"INSERT INTO statement SELECT {last}, {digest}, kind, subject, envelope FROM statement"  # noqa: S608  # as above
        f" WHERE subject = '{ref}' ORDER BY sequence DESC LIMIT 1"
    )


def run_sql(home: Path, statement: str) -> None:
    """Run one statement on the database of `home`, as ``sqlite3`` would."""
    with closing(sqlite3.connect(home / _DATABASE)) as connection, connection:
        connection.execute(statement)


def put_database(home: Path, copy: Path) -> None:
    """Put `copy` in the place of the database of `home`."""
    for suffix in ("-wal", "-shm"):
        (home / f"{_DATABASE}{suffix}").unlink(missing_ok=True)
    shutil.copyfile(copy, home / _DATABASE)
