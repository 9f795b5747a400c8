"""Whether the database says of a version what its files say, where a policy goes by it."""

from __future__ import annotations

from loractl_registry.adapter_facts import facts_of
from loractl_registry.adapter_names import WEIGHTS
from loractl_registry.errors import DeniedError
from loractl_registry.records import AdapterVersion, Manifest
from loractl_registry.refs import VersionRef
from loractl_registry.safetensors_header import open_safetensors_header


class RowFactsError(DeniedError):
    """The database says another rank or size than the files have."""

    code = "registry.row_facts"

    def __init__(self, ref: VersionRef, what: str, held: int, found: int) -> None:
        super().__init__(
            f"refused {ref}: the database says {what} {held}, and its files say {found}",
            hint="somebody edited the database; restore the newest backup, then run: loractl audit verify",
        )
        self.ref, self.what, self.held, self.found = ref, what, held, found


def require_true_facts(version: AdapterVersion, manifest: Manifest) -> None:
    """Return if rank and size of `version` are those of its files, which match `manifest`.

    Rows are not signed, and a limit on the rank would be no limit for who can edit them.

    Raises:
        RowFactsError: They are not.
    """
    from loractl_registry.adapter_config import read_adapter_config  # pydantic, which listing does without

    size_bytes = sum(entry.size_bytes for entry in manifest.files)
    if version.size_bytes != size_bytes:
        raise RowFactsError(version.ref, "size", version.size_bytes, size_bytes)
    header = open_safetensors_header(version.path / WEIGHTS)
    rank = facts_of(read_adapter_config(version.path), header.tensors).rank
    if version.facts.rank != rank:
        raise RowFactsError(version.ref, "rank", version.facts.rank, rank)
