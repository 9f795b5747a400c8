"""Checking a bill of materials against CycloneDX's own schema, which the library carries; takes no network."""

from __future__ import annotations

from functools import cache
from typing import cast

from cyclonedx.exception import MissingOptionalDependencyException
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator, JsonValidationError

from loractl_registry.bom.errors import BomInvalidError, BomUnavailableError
from loractl_registry.file_errors import shown
from loractl_registry.strict_json import StrictJsonError, parse_object


def check_bom(data: bytes) -> None:
    """Return if `data` is a CycloneDX 1.6 bill. Its first call imports jsonschema, which takes about a second.

    Raises:
        BomInvalidError: It is not; the message names the place.
        BomUnavailableError: What the library validates with is not installed.
    """
    try:
        parse_object(data)
    except StrictJsonError as error:
        raise BomInvalidError("its beginning", str(error)) from error
    try:
        problem = _validator().validate_str(data.decode())
    except MissingOptionalDependencyException as error:
        raise BomUnavailableError("cyclonedx-python-lib[json-validation]") from error
    if isinstance(problem, JsonValidationError):
        found = cast("object", problem.data)  # pyright: ignore[reportUnknownMemberType]
        raise BomInvalidError(str(getattr(found, "json_path", "$")), shown(getattr(found, "message", str(found))))


@cache
def _validator() -> JsonStrictValidator:
    return JsonStrictValidator(SchemaVersion.V1_6)
