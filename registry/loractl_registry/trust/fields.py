"""The fields that statements and checkpoints are made of, each with the one text that it has."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import rfc8785
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, StringConstraints

from loractl_registry.actors import MAX_REASON_LENGTH, parse_actor, parse_reason
from loractl_registry.errors import RegistryError
from loractl_registry.refs import parse_name, parse_ref

ANY_TENANT = "*"
"""Stands alone among tenants, for every one of them."""

TENANT_PATTERN = r"(?!.*\*\*)[a-z0-9*][a-z0-9._*-]{0,62}"
"""The name of a tenant, in which ``*`` may stand for any characters."""

MAX_ITEMS = 1000
MAX_SEQUENCE = 2**53 - 1  # the largest integer that every JSON parser keeps exact

_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", re.ASCII)


class Strict(BaseModel):
    """A model that changes no type, knows all its fields and cannot be changed."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", validate_default=True)


def canonical_bytes(model: Strict) -> bytes:
    """Return the one text of `model`: JSON by RFC 8785, with every field in it."""
    return rfc8785.dumps(model.model_dump(mode="json", by_alias=True))


def is_canonical(model: Strict, text: bytes) -> bool:
    """Whether `text` is the one text of `model`.

    The names of all fields are ASCII and no field is a fraction, so that json's encoder writes what RFC 8785 asks for,
    in a tenth of the time; only what differs is worth asking the library.
    """
    held = model.model_dump(mode="json", by_alias=True)
    quick = json.dumps(held, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return quick.encode("utf-8", "surrogatepass") == text or canonical_bytes(model) == text


def to_the_second(moment: datetime) -> datetime:
    """Return `moment` as statements keep it: in UTC, without its fraction."""
    return moment.astimezone(UTC).replace(microsecond=0)


def _read_moment(value: object) -> datetime:
    if isinstance(value, str) and _MOMENT.fullmatch(value):
        return datetime.fromisoformat(value)
    if isinstance(value, datetime) and value.tzinfo is not None and value == to_the_second(value):
        return to_the_second(value)
    raise ValueError("must be a time in UTC to the second, such as 2026-01-31T09:00:00Z")


def _write_moment(moment: datetime) -> str:
    # Not strftime, which does not pad the year on every platform.
    return moment.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def _name(text: str) -> str:
    try:
        return parse_name(text)
    except RegistryError as error:
        raise ValueError(str(error)) from None


def _version_ref(text: str) -> str:
    try:
        ref = parse_ref(text)
    except RegistryError as error:
        raise ValueError(str(error)) from None
    if ref.number is None:
        raise ValueError("must name one version, such as support-bot@3")
    return text


def _reason(text: str) -> str:
    try:
        clean = parse_reason(text)
    except RegistryError as error:
        raise ValueError(str(error)) from None
    if clean != text:
        raise ValueError("must be a reason without blanks around it")
    return text


def _actor(text: str) -> str:
    try:
        clean = parse_actor(text)
    except RegistryError as error:
        raise ValueError(str(error)) from None
    if clean != text:
        raise ValueError("must be a name without blanks around it")
    return text


_Item = TypeVar("_Item", bound=str)


def _as_set(items: tuple[_Item, ...]) -> tuple[_Item, ...]:
    return tuple(sorted(set(items)))


def _tenants(items: tuple[str, ...]) -> tuple[str, ...]:
    if items != (ANY_TENANT,):
        for item in items:
            if item == ANY_TENANT or not re.fullmatch(TENANT_PATTERN, item, re.ASCII):
                raise ValueError(f"{item[:80]!r} must be the name of a tenant, or a pattern of names such as acme-*")
    return items


Name = Annotated[str, AfterValidator(_name)]
"""Of an identity, a base, a tenant or a data class: ASCII alone, so nothing looks like another."""

VersionName = Annotated[str, AfterValidator(_version_ref)]
"""``name@3``."""

Hexadecimal = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
"""A SHA-256 without its algorithm, as in-toto's digest sets and DSSE's key ids write it."""

Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]

Reason = Annotated[str, StringConstraints(max_length=MAX_REASON_LENGTH), AfterValidator(_reason)]

Actor = Annotated[str, AfterValidator(_actor)]
"""Who acts, as the audit log keeps it: free text of one line."""

Sequence = Annotated[int, Field(ge=1, le=MAX_SEQUENCE)]

Moment = Annotated[datetime, PlainValidator(_read_moment), PlainSerializer(_write_moment, return_type=str)]
"""UTC to the second."""

Digests = Annotated[tuple[Digest, ...], Field(max_length=MAX_ITEMS), AfterValidator(_as_set)]
Names = Annotated[tuple[Name, ...], Field(max_length=MAX_ITEMS), AfterValidator(_as_set)]
Tenants = Annotated[tuple[str, ...], Field(max_length=MAX_ITEMS), AfterValidator(_as_set), AfterValidator(_tenants)]


class Signer(Strict):
    """Who says so: the name of an identity, and the key that it signs with."""

    identity: Name
    key_id: Hexadecimal
