"""Fetching adapters and bases from a Hugging Face Hub, at one resolved commit."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from loractl_registry import base_files
from loractl_registry.adapter_names import FETCHED, README, REQUIRED
from loractl_registry.hashing import shown_progress
from loractl_registry.home_errors import os_errors_named
from loractl_registry.hub_errors import (
    HubError,
    HubNotFoundError,
    HubOfflineError,
    InvalidHubSourceError,
    hub_errors_named,
)
from loractl_registry.hub_progress import bar_class
from loractl_registry.model_card import read_model_card
from loractl_registry.progress import SILENT, Progress
from loractl_registry.records import Provenance

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME = "hf:"
DOWNLOADS = 4

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_SOURCE = re.compile(rf"hf:(?P<repository>{_PART}/{_PART})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{{0,127}}))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ON = frozenset({"1", "ON", "YES", "TRUE"})
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class HubSource:
    """A repository on a Hub; without a revision its default branch is meant."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")


@dataclass(frozen=True, slots=True)
class HubFiles:
    """Files that were fetched from one commit.

    Attributes:
        folder: Holds regular files for an adapter, a snapshot of the Hugging Face cache for a base.
        declared_base: `base_model` of the model card.
    """

    folder: Path
    provenance: Provenance
    declared_base: str | None


def is_hub_source(text: str) -> bool:
    """Whether `text` names a Hub repository, well or badly, rather than a folder."""
    return text.startswith(SCHEME)


def parse_hub_source(text: str) -> HubSource:
    """Parse ``hf:OWNER/REPO`` or ``hf:OWNER/REPO@REVISION``.

    Raises:
        InvalidHubSourceError: It is neither.
    """
    found = _SOURCE.fullmatch(text)
    if found is None or ".." in text:
        raise InvalidHubSourceError(text)
    return HubSource(found["repository"], found["revision"])


@contextmanager
def fetched_adapter(source: HubSource, scratch: Path, progress: Progress = SILENT) -> Generator[HubFiles]:
    """Fetch the files of an adapter into a private folder below `scratch`, which is removed at the end.

    Only adapter_config.json, adapter_model.safetensors, README.md and model.sig are fetched, so that nothing else of
    the repository is ever on this machine. In offline mode (``HF_HUB_OFFLINE``) they come from the Hugging Face cache.

    Raises:
        HubError: Or `HubNotFoundError` or `HubDeniedError`: the Hub, or the cache, did not give them.
        RegistryError: The operating system refused.
    """
    with os_errors_named(scratch):
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="hub-", dir=scratch))
        try:
            commit = (_copy_cached if _is_offline() else _fetch_adapter)(source, folder, progress)
            yield _described(source, folder, commit)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def fetch_base(source: HubSource, progress: Progress = SILENT) -> HubFiles:
    """Fetch the files of a base into the Hugging Face cache and return the snapshot.

    Fetched are the files at the top that an engine reads; code and weights in other formats stay where they are.

    Raises:
        HubError: Or `HubNotFoundError` or `HubDeniedError`: the Hub, or the cache, did not give them.
        RegistryError: The operating system refused.
    """
    if _is_offline():
        folder = _cached_snapshot(source)
        return _described(source, folder, _commit_of(folder))
    listing = _list_files(source)
    wanted = [file for file in listing.files if "/" not in file.name and _is_of_base(file.name)]
    if not any(file.name.endswith(base_files.WEIGHTS_SUFFIX) for file in wanted):
        raise HubNotFoundError(f"{source} has no .safetensors weights", hint="choose a repository that has")
    _download(source, listing.commit, wanted, None, progress)
    # With the revision by its name, so that the cache remembers what it meant and answers without a network later.
    folder = _fetch(source, base_files.CONFIG, source.revision or "main", None, SILENT).parent
    if folder.name != listing.commit:
        folder = folder.parent / listing.commit
    return _described(source, folder, listing.commit)


@dataclass(frozen=True, slots=True)
class _RemoteFile:
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Listing:
    commit: str
    files: tuple[_RemoteFile, ...]


def _fetch_adapter(source: HubSource, folder: Path, progress: Progress) -> str:
    listing = _list_files(source)
    names = {file.name for file in listing.files}
    for name in REQUIRED:
        if name not in names:
            raise HubNotFoundError(
                f"{source} has no {name}",
                hint="it is not a PEFT adapter in safetensors; weights in other formats are not fetched",
            )
    wanted = [file for file in listing.files if file.name in FETCHED]
    _download(source, listing.commit, wanted, folder, progress)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return listing.commit


def _copy_cached(source: HubSource, folder: Path, progress: Progress) -> str:
    snapshot = _cached_snapshot(source)
    names = [name for name in FETCHED if (snapshot / name).is_file()]
    for name in REQUIRED:
        if name not in names:
            raise HubOfflineError(str(source))
    with shown_progress(progress, f"copying {source}", sum((snapshot / name).stat().st_size for name in names)):
        for name in names:
            # The cache holds links to blobs; an adapter is taken from regular files alone.
            shutil.copyfile(snapshot / name, folder / name)
            progress.advance((folder / name).stat().st_size)
    return _commit_of(snapshot)


def _list_files(source: HubSource) -> _Listing:
    info = _asked(source, lambda api: api.model_info(source.repository, revision=source.revision, files_metadata=True))
    if info.sha is None or not _COMMIT.fullmatch(info.sha):
        raise HubError(f"the Hub did not say which commit {source} is", hint="check HF_ENDPOINT")
    files = tuple(_RemoteFile(each.rfilename, each.size or 0) for each in info.siblings or ())
    return _Listing(info.sha, files)


def _download(
    source: HubSource, commit: str, files: Sequence[_RemoteFile], folder: Path | None, progress: Progress
) -> None:
    from concurrent.futures import ThreadPoolExecutor  # only worth its import when something is fetched

    total = sum(file.size_bytes for file in files)
    with shown_progress(progress, f"fetching {source}", total), ThreadPoolExecutor(DOWNLOADS) as pool:
        jobs = [pool.submit(_fetch, source, file.name, commit, folder, progress) for file in files]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch(source: HubSource, name: str, revision: str, folder: Path | None, progress: Progress) -> Path:
    def download(api: HfApi) -> str:
        return api.hf_hub_download(  # pyright: ignore[reportUnknownMemberType] - tqdm is untyped
            source.repository, name, revision=revision, local_dir=folder, tqdm_class=bar_class(progress)
        )

    return Path(_asked(source, download))


def _cached_snapshot(source: HubSource) -> Path:
    # Slow to import, and only Hub sources need it.
    from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType] - tqdm is untyped

    with hub_errors_named(str(source)):
        found = snapshot_download(source.repository, revision=source.revision, local_files_only=True)
    return Path(found)


def _asked(source: HubSource, question: Callable[[HfApi], _T]) -> _T:
    from huggingface_hub import HfApi  # slow to import, and only Hub sources need it

    with hub_errors_named(str(source)):
        # The endpoint is read now and not when the library was imported; so does the library with HF_TOKEN.
        return question(HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, library_name="loractl"))


def _described(source: HubSource, folder: Path, commit: str) -> HubFiles:
    card = read_model_card(folder, is_cache=True)
    provenance = Provenance(
        source=str(HubSource(source.repository, commit)),
        commit=commit,
        author=card.author or source.repository.partition("/")[0],
        licence=card.licence,
        datasets=card.datasets,
    )
    return HubFiles(folder, provenance, card.base)


def _commit_of(snapshot: Path) -> str:
    if not _COMMIT.fullmatch(snapshot.name):
        raise HubError(f"{snapshot} is not a snapshot of a commit", hint="fetch it again with: hf download OWNER/REPO")
    return snapshot.name


def _is_of_base(name: str) -> bool:
    return name.endswith(base_files.SUFFIXES) or name == README


def _is_offline() -> bool:
    return any(os.environ.get(name, "").upper() in _ON for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
