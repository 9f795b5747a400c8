"""The tables as SQLModel declares them: what a live database is compared with, and the way to another engine later.

Private, and imported only for that comparison: importing SQLModel takes longer than promoting a version, and its table
models do not validate what they are given. The lower-case name of a class is the name of its table, unless it says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import MetaData, Table
from sqlmodel import Field, SQLModel


class _Declared(SQLModel):
    """Keeps these tables apart from every other SQLModel of the process."""

    metadata = MetaData()


class Migration(_Declared, table=True):
    """A migration that has been applied."""

    name: str = Field(primary_key=True)
    applied_at: str


class Base(_Declared, table=True):
    """An admitted base, or one that was."""

    id: int | None = Field(default=None, primary_key=True)
    name: str
    digest: str
    path: str
    source: str
    licence: str | None
    size_bytes: int
    file_count: int
    manifest: str
    signatures: str
    config: str
    added_at: str
    added_by: str
    removed_at: str | None


class Content(_Declared, table=True):
    """The bytes that one or more versions share."""

    digest: str = Field(primary_key=True)
    size_bytes: int
    manifest: str
    facts: str
    collected_at: str | None


class Version(_Declared, table=True):
    """A version of an adapter."""

    name: str = Field(primary_key=True)
    number: int = Field(primary_key=True)
    stage: str
    digest: str = Field(foreign_key="content.digest")
    base_id: int | None = Field(foreign_key="base.id")
    provenance: str
    added_at: str
    added_by: str


class Audit(_Declared, table=True):
    """One change."""

    sequence: int | None = Field(default=None, primary_key=True)
    at: str
    actor: str
    action: str
    subject: str
    from_stage: str | None
    to_stage: str | None
    reason: str | None
    detail: str
    digest: str


class Statement(_Declared, table=True):
    """One signed statement."""

    sequence: int | None = Field(default=None, primary_key=True)
    digest: str
    kind: str
    subject: str
    envelope: str


class Tenant(_Declared, table=True):
    """A tenant, or one that was."""

    id: int | None = Field(default=None, primary_key=True)
    name: str
    adapters: str
    data_classes: str
    weight: float
    added_at: str
    added_by: str
    removed_at: str | None
    priority: str


class TenantLimit(_Declared, table=True):
    """The limits of a tenant, for one adapter or in all."""

    __tablename__ = "tenant_limit"  # pyright: ignore[reportAssignmentType]  # as SQLModel documents it

    tenant_id: int = Field(primary_key=True, foreign_key="tenant.id")
    adapter: str = Field(primary_key=True)
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrent: int | None
    tokens_per_day: int | None
    max_context: int | None
    max_output: int | None


class ApiKey(_Declared, table=True):
    """What is kept of an API key."""

    __tablename__ = "api_key"  # pyright: ignore[reportAssignmentType]  # as SQLModel documents it

    prefix: str = Field(primary_key=True)
    tenant_id: int = Field(foreign_key="tenant.id")
    digest: str
    created_at: str
    created_by: str
    expires_at: str | None
    revoked_at: str | None


class FileSignature(_Declared, table=True):
    """One signature over the files of a content."""

    __tablename__ = "file_signature"  # pyright: ignore[reportAssignmentType]

    content: str = Field(primary_key=True, foreign_key="content.digest")
    digest: str = Field(primary_key=True)
    kind: str
    signer: str
    bundle: str
    at: str


class EvidenceBody(_Declared, table=True):
    """The bytes of a piece of evidence."""

    __tablename__ = "evidence_body"  # pyright: ignore[reportAssignmentType]

    digest: str = Field(primary_key=True)
    body: bytes


class Evidence(_Declared, table=True):
    """One piece of evidence about a version."""

    statement: str = Field(primary_key=True, foreign_key="statement.digest")
    subject: str
    digest: str = Field(foreign_key="evidence_body.digest")
    metrics: str


@dataclass(frozen=True, slots=True)
class DeclaredTable:
    """What SQLite should say about a table.

    Attributes:
        columns: By name, the type, whether NULL is refused, and whether it belongs to the primary key.
        foreign_keys: Column and what it refers to, as ``table.column``.
    """

    columns: dict[str, tuple[str, bool, bool]]
    foreign_keys: set[tuple[str, str]]


_TYPES = {int: "INTEGER", bytes: "BLOB", float: "REAL"}


def declared_tables() -> dict[str, DeclaredTable]:
    """Return every declared table by name."""
    return {name: _declared(table) for name, table in _Declared.metadata.tables.items()}


def _declared(table: Table) -> DeclaredTable:
    # SQLite calls the alias of the row id nullable, though it never is.
    columns = {
        column.name: (
            _TYPES.get(column.type.python_type, "TEXT"),
            not column.nullable and not (column.primary_key and column.type.python_type is int and _is_alone(table)),
            bool(column.primary_key),
        )
        for column in table.columns
    }
    keys = {(key.parent.name, key.target_fullname) for key in table.foreign_keys}
    return DeclaredTable(columns, keys)


def _is_alone(table: Table) -> bool:
    return len(table.primary_key.columns) == 1
