"""Where the files of an adapter or a base come from: a folder, or a repository on the Hub."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from loractl_registry.errors import UsageError
from loractl_registry.model_card import read_model_card
from loractl_registry.progress import Progress
from loractl_registry.records import Provenance

HUB = "hf:"


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """A folder on this machine and what could be found out about it.

    Attributes:
        declared_base: What the model card says; adapter_config.json goes before it.
    """

    folder: Path
    provenance: Provenance
    declared_base: str | None


@contextmanager
def opened_adapter(source: str, scratch: Path, progress: Progress) -> Generator[OpenedSource]:
    """Give the folder of an adapter, fetched below `scratch` first where `source` is on the Hub.

    Raises:
        RegistryError: A subclass that says why it could not be had.
    """
    if source.startswith(HUB):
        from loractl_registry import hub  # only Hub sources need it

        with hub.fetched_adapter(hub.parse_hub_source(source), scratch, progress) as fetched:
            yield OpenedSource(fetched.folder, fetched.provenance, fetched.declared_base)
    else:
        yield _local(source)


def opened_base(source: str, revision: str | None, progress: Progress) -> OpenedSource:
    """Return the folder of a base, fetched into the Hugging Face cache first where `source` is on the Hub.

    Raises:
        UsageError: A revision was given for a folder, or twice.
        RegistryError: A subclass that says why it could not be had.
    """
    if not source.startswith(HUB):
        if revision is not None:
            raise UsageError(f"{source} is a folder and has no revision {revision!r}", hint="write hf:OWNER/REPO")
        return _local(source)
    from loractl_registry import hub  # only Hub sources need it

    parsed = hub.parse_hub_source(source)
    if revision is not None:
        if parsed.revision is not None:
            raise UsageError(f"{source} names a revision already, and {revision!r} is another", hint="say it once")
        parsed = hub.parse_hub_source(f"{source}@{revision}")
    fetched = hub.fetch_base(parsed, progress)
    return OpenedSource(fetched.folder, fetched.provenance, fetched.declared_base)


def _local(source: str) -> OpenedSource:
    folder = Path(source).expanduser().absolute()
    card = read_model_card(folder)
    found = Provenance(str(folder), author=card.author, licence=card.licence, datasets=card.datasets)
    return OpenedSource(folder, found, card.base)
