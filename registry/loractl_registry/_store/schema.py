"""Whether a live database has the schema that the migrations make and the tables declare."""

from __future__ import annotations

import sqlite3

from loractl_registry._store.migrate import apply_migrations, known_migrations

_EPOCH = "1970-01-01T00:00:00.000000Z"
_OBJECTS = "SELECT type || ' ' || name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY type, name"


def schema_of(connection: sqlite3.Connection) -> dict[str, str]:
    """Return the SQL of every table, index and trigger, by type and name."""
    return {str(name): str(sql) for name, sql in connection.execute(_OBJECTS)}


def migrated_schema() -> dict[str, str]:
    """Return the schema that the migrations of this loractl make."""
    with sqlite3.connect(":memory:", isolation_level=None) as connection:
        apply_migrations(connection, known_migrations(), _EPOCH)
        schema = schema_of(connection)
    connection.close()
    return schema


def schema_text(schema: dict[str, str]) -> str:
    """Write `schema` as one script, for the golden file."""
    return "".join(f"-- {name}\n{sql};\n\n" for name, sql in schema.items())


def check_schema(connection: sqlite3.Connection) -> tuple[str, ...]:
    """Return one line per difference between a live database, the migrations and the declared tables."""
    held, made = schema_of(connection), migrated_schema()
    lines = [f"{name} is missing" for name in made if name not in held]
    lines += [f"{name} was added by somebody else" for name in held if name not in made]
    lines += [f"{name} was altered" for name in made if name in held and held[name] != made[name]]
    return (*lines, *check_declaration(connection))


def check_declaration(connection: sqlite3.Connection) -> tuple[str, ...]:
    """Return one line per column or foreign key that the SQLModel tables declare otherwise than the database has it."""
    from loractl_registry._store.tables import declared_tables  # SQLModel takes most of a second to import

    lines: list[str] = []
    for table, declared in declared_tables().items():
        rows = connection.execute(f"PRAGMA table_info({table})").fetchall()
        held = {str(name): (str(kind), bool(required), bool(key)) for _, name, kind, required, _, key in rows}
        lines += [
            f"{table}.{name} is {held.get(name)} and is declared {declared.columns.get(name)}"
            for name in sorted(set(held) | set(declared.columns))
            if held.get(name) != declared.columns.get(name)
        ]
        keys = {(str(row[3]), f"{row[2]}.{row[4]}") for row in connection.execute(f"PRAGMA foreign_key_list({table})")}
        lines += [f"{table}.{source} -> {target} differs" for source, target in sorted(keys ^ declared.foreign_keys)]
    return tuple(lines)
