"""Launch configurations: data, looked up by GPU, kernel, shape family and batch bucket.

A file names a GPU (``nvidia-h200.json``) and holds entries ``{kernel, in_features, out_features, columns, max_pairs,
launch}``. The first match is taken, of the user's folder, as `loractl kernels tune` fills it; the files beside this
module; and ``default.json``, whose entries hold for every family and every GPU.

What a launch depends on in the batch is its bucket alone, so that serving needs only the variants that warm-up covers.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Final, cast

import torch

from loractl_kernels.errors import KernelError

FOLDER_VARIABLE: Final = "LORACTL_KERNELS_CONFIGS"
FORMAT: Final = 1

_SMALL: Final = (64, 256, 1024, 4096)
_TILED: Final = (8192, None)
BUCKETS: Final[Mapping[str, tuple[int | None, ...]]] = MappingProxyType(
    {
        f"{operation}_{regime}": buckets
        for operation in ("shrink", "expand", "activate", "sum")
        for regime, buckets in (("small", _SMALL), ("tiled", _TILED))
    }
)
"""Largest number of pairs of each bucket of each kernel; None has no bound."""

_PACKAGED: Final = Path(__file__).parent / "configs"
_MAX_BYTES: Final = 1 << 20


class ConfigError(KernelError, ValueError):
    """A file of launch configurations cannot be used; none is guessed in its place."""

    code = "kernels.config"

    def __init__(self, path: Path, what: str) -> None:
        super().__init__(f"{path}: {what}; mend or remove the file")
        self.path, self.what = path, what


@dataclass(frozen=True, slots=True)
class Launch:
    """How a kernel is cut up.

    Attributes:
        block_n: Output columns of a tile.
        block_k: Columns that one step of a sum takes.
        num_warps: Warps of a program.
        num_stages: Depth of the software pipeline.
        programs_per_sm: Programs for each multiprocessor, which loop over the tiles; a small shrink and a sum do not
            read it.
    """

    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    programs_per_sm: int


ALLOWED: Final[Mapping[str, frozenset[int]]] = MappingProxyType(
    {
        "block_n": frozenset({16, 32, 64, 128, 256, 512, 1024}),
        # A sum is cut into chunks of a multiple of 128, at the same places in every batch; a step
        # that would cross them is made smaller.
        "block_k": frozenset({16, 32, 64, 128, 256, 512}),
        "num_warps": frozenset({1, 2, 4, 8}),
        "num_stages": frozenset(range(1, 9)),
        "programs_per_sm": frozenset(range(1, 33)),
    }
)


@dataclass(frozen=True, slots=True)
class Key:
    """What a launch is chosen by; sizes are None in an entry for every family.

    Attributes:
        kernel: One of `BUCKETS`.
        max_pairs: The bucket.
        in_features: Columns of the projection's input.
        out_features: Columns of its output, all slices together.
        columns: Columns of a shrunk row: slices times rank.
    """

    kernel: str
    max_pairs: int | None
    in_features: int | None = None
    out_features: int | None = None
    columns: int | None = None


Table = Mapping[Key, Launch]

_forced: dict[str, Launch] = {}


def launch_for(
    kernel: str, *, pairs: int, in_features: int, out_features: int, columns: int, device: torch.device
) -> Launch:
    """Return how to launch `kernel` on a batch of `pairs` pairs.

    Args:
        kernel: One of `BUCKETS`.
        pairs: Tokens times top_k; it only chooses the bucket.
        in_features: Columns of the projection's input.
        out_features: Columns of its output, all slices together.
        columns: Columns of a shrunk row: slices times rank.
        device: Where it runs.

    Raises:
        ConfigError: A file of configurations is damaged; read on the first call for a device alone.
        KeyError: No such kernel.
    """
    if _forced and kernel in _forced:
        return _forced[kernel]
    return _lookup(kernel, bucket_of(kernel, pairs), in_features, out_features, columns, device)


def bucket_of(kernel: str, pairs: int) -> int | None:
    """Return the bucket that a batch of `pairs` pairs falls into; the last one takes what is larger."""
    buckets = BUCKETS[kernel]
    for bound in buckets[:-1]:
        if bound is not None and pairs <= bound:
            return bound
    return buckets[-1]


@lru_cache(maxsize=4096)
def _lookup(
    kernel: str, max_pairs: int | None, in_features: int, out_features: int, columns: int, device: torch.device
) -> Launch:
    return launch_of(Key(kernel, max_pairs, in_features, out_features, columns), gpu_slug(device))


def launch_of(key: Key, slug: str) -> Launch:
    """Return the launch of `key` on the GPU whose file is called `slug`; the empty one has the defaults alone."""
    table = _table(slug)
    found = table.get(key)
    return found if found is not None else table[Key(key.kernel, key.max_pairs)]


_SAME_CHIP: Final[Mapping[str, str]] = MappingProxyType({"nvidia-h100-80gb-hbm3": "nvidia-h200"})
"""Whose packaged file holds for a GPU that has none: the same processors, on other memory."""


@lru_cache(maxsize=16)
def _table(slug: str) -> Table:
    """Return every entry that holds for a GPU: defaults, then ours, then the user's over them."""
    merged: dict[Key, Launch] = dict(read_table(_PACKAGED / "default.json", is_default=True))
    packaged = _PACKAGED / f"{_SAME_CHIP.get(slug, slug)}.json"
    for path in () if not slug else (packaged, user_folder(os.environ) / f"{slug}.json"):
        if os.path.lexists(path):
            merged |= read_table(path)
    return MappingProxyType(merged)


def forget() -> None:
    """Read the files again on the next lookup."""
    _lookup.cache_clear()
    _table.cache_clear()


@contextmanager
def forcing(kernel: str, launch: Launch) -> Generator[None]:
    """Launch `kernel` as `launch` says, whatever the files say; what tuning compares candidates with."""
    before = _forced.get(kernel)
    _forced[kernel] = launch
    try:
        yield
    finally:
        if before is None:
            del _forced[kernel]
        else:
            _forced[kernel] = before


def gpu_slug(device: torch.device) -> str:
    """Return the name of a device's file: ``NVIDIA H200`` is ``nvidia-h200``; what is no GPU is its type."""
    if device.type != "cuda":
        return device.type
    return slug_of(torch.cuda.get_device_name(device))


def slug_of(name: str) -> str:
    """Return `name` in lower case, each run of other signs one hyphen, so that no name can leave the folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "unknown"


def user_folder(environ: Mapping[str, str]) -> Path:
    """Return where the user's own files lie: ``LORACTL_KERNELS_CONFIGS``, else below the XDG cache folder."""
    if chosen := environ.get(FOLDER_VARIABLE):
        return Path(chosen)
    cache = environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "loractl" / "kernels"


def read_table(path: Path, *, is_default: bool = False) -> dict[Key, Launch]:
    """Read and check one file.

    Raises:
        ConfigError: It is not a plain file of this format, or an entry is wrong; the message names both.
    """
    document = _document(path)
    if set(document) != {"format", "gpu", "entries"}:
        raise ConfigError(path, f"must have format, gpu and entries, and it has {sorted(document)}")
    if document["format"] != FORMAT:
        raise ConfigError(path, f"format must be {FORMAT}, and it is {document['format']!r}")
    entries = document["entries"]
    if not isinstance(entries, list):
        raise ConfigError(path, "entries must be a list")
    table: dict[Key, Launch] = {}
    for index, entry in enumerate(cast("list[object]", entries)):
        key, launch = _entry(path, f"entry {index}", entry, is_default=is_default)
        if key in table:
            raise ConfigError(path, f"entry {index} says again what an earlier one says: {key}")
        table[key] = launch
    return table


def write_table(path: Path, gpu: str, table: Table) -> None:
    """Write `table` as the file of one GPU, whole or not at all.

    Raises:
        OSError: The folder cannot be written.
    """
    ordered = sorted(table.items(), key=lambda item: _order(item[0]))
    entries = [
        {name: value for name, value in asdict(key).items() if value is not None or name == "max_pairs"}
        | {"launch": asdict(launch)}
        for key, launch in ordered
    ]
    lines = ",\n".join(f"    {json.dumps(entry)}" for entry in entries)
    head = f'{{\n  "format": {FORMAT},\n  "gpu": {json.dumps(gpu)},\n  "entries": ['
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(f"{head}\n{lines}\n  ]\n}}\n" if entries else f"{head}]\n}}\n", encoding="utf-8")
    new.replace(path)


def _order(key: Key) -> tuple[int | str, ...]:
    sizes = (key.in_features or 0, key.out_features or 0, key.columns or 0)
    return (*sizes, key.kernel, key.max_pairs or 1 << 62)


def _document(path: Path) -> dict[str, object]:
    try:
        # Without waiting: a pipe of that name must not hold up whoever serves.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise ConfigError(path, "is not a plain file")
            text = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(path, f"cannot be read: {error.strerror}") from error
    if len(text) > _MAX_BYTES:
        raise ConfigError(path, f"is larger than {_MAX_BYTES} bytes")
    try:
        document: object = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ConfigError(path, f"is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(path, "must be an object")
    return cast("dict[str, object]", document)


def _once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _entry(path: Path, where: str, entry: object, *, is_default: bool) -> tuple[Key, Launch]:
    sizes = () if is_default else ("in_features", "out_features", "columns")
    values = _members(path, where, entry, {"kernel", "max_pairs", "launch", *sizes})
    kernel, max_pairs = values["kernel"], values["max_pairs"]
    if not isinstance(kernel, str) or kernel not in BUCKETS:
        raise ConfigError(path, f"{where}: kernel must be one of {', '.join(BUCKETS)}, and it is {kernel!r}")
    if (max_pairs is not None and type(max_pairs) is not int) or max_pairs not in BUCKETS[kernel]:
        raise ConfigError(path, f"{where}: max_pairs must be one of {BUCKETS[kernel]}, and it is {max_pairs!r}")
    for name in sizes:
        size = values[name]
        if type(size) is not int or not 0 < size < 1 << 24:
            raise ConfigError(path, f"{where}: {name} must be a positive integer, and it is {size!r}")
    key = Key(kernel, max_pairs, **{name: cast("int", values[name]) for name in sizes})
    return key, _launch(path, f"{where} ({kernel}, max_pairs {max_pairs})", values["launch"])


def _launch(path: Path, where: str, launch: object) -> Launch:
    values = _members(path, f"{where}: launch", launch, {field.name for field in fields(Launch)})
    for name, allowed in ALLOWED.items():
        if type(values[name]) is not int or values[name] not in allowed:
            raise ConfigError(path, f"{where}: {name} must be one of {sorted(allowed)}, and it is {values[name]!r}")
    return Launch(**{name: cast("int", values[name]) for name in ALLOWED})


def _members(path: Path, where: str, value: object, names: set[str]) -> dict[str, object]:
    if not isinstance(value, dict):
        raise ConfigError(path, f"{where} must be an object, and it is {value!r}")
    members = cast("dict[str, object]", value)
    if set(members) != names:
        raise ConfigError(path, f"{where} must have {sorted(names)}, and it has {sorted(members)}")
    return members
