"""Whole numbers of a base's config.json, checked before anything is computed from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from loractl_registry.preflight.errors import PreflightRefusedError, Problem

_MOST = 2**24


class ConfigNumbers:
    """The numbers of one config.json.

    A number that an architecture's code fills in by itself when it is missing is not guessed here: defaults differ
    between versions of that code, and a wrong one would pass adapters that do not fit.
    """

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def number(self, *names: str, least: int = 1, most: int = _MOST) -> int:
        """Return the number under the first of `names` that is there.

        Raises:
            PreflightRefusedError: None is there, or what is there is not a whole number from `least` to `most`.
        """
        for name in names:
            value = self._values.get(name)
            if value is None:
                continue
            if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
                return value
            raise self._unusable(name, f"{value!r}, which is not a whole number from {least} to {most}")
        raise self._unusable(names[0], "nothing")

    def number_or(self, default: int, *names: str, least: int = 1) -> int:
        """Return the number under the first of `names` that is there, or `default` if all are missing or null."""
        return (
            self.number(*names, least=least) if any(self._values.get(name) is not None for name in names) else default
        )

    def nullable(self, name: str) -> int | None:
        """Return the number under `name`, or None if null is there in so many words.

        Raises:
            PreflightRefusedError: The name is missing, or holds no usable number.
        """
        if name in self._values and self._values[name] is None:
            return None
        return self.number(name)

    def layers_listed(self, name: str) -> frozenset[int]:
        """Return the whole numbers in the list under `name`; none if it is missing or null."""
        value = self._values.get(name)
        listed = cast("list[object]", value) if isinstance(value, list) else []
        return frozenset(layer for layer in listed if isinstance(layer, int))

    def quantisation(self) -> str | None:
        """Return the method that the weights are quantised with, or None."""
        value = self._values.get("quantization_config")
        method = cast("Mapping[str, object]", value).get("quant_method") if isinstance(value, Mapping) else None
        return method if isinstance(method, str) else None

    @staticmethod
    def _unusable(name: str, found: str) -> PreflightRefusedError:
        return PreflightRefusedError(
            Problem(
                f"the base's config.json must say {name}, and it says {found}",
                "admit the base from an unchanged copy of its repository",
            )
        )
