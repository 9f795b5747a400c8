"""Attacks by the files of an adapter: code, links, archives, headers."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable

from attacks.acting import Run, run
from attacks.declaring import Attack, Has, Threat
from attacks.scene import Scene
from support.files import entry, packed

from loractl_registry.archive_format import MANIFEST_NAME, header_of, padding_of

UNSAFE, MALFORMED, CONFIG = "registry.unsafe_file", "registry.malformed_safetensors", "registry.adapter_config"
ADD = run("add novel {folder}")
IMPORT = run("import {archive}")


class Payload:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch pwned",)


def put(name: str, content: bytes) -> Callable[[Scene], None]:
    """Put a file into the adapter's folder."""
    return lambda scene: (scene.folder / name).write_bytes(content) and None


def header(content: bytes) -> Callable[[Scene], None]:
    """Put other bytes in the place of the weights."""
    return put("adapter_model.safetensors", content)


def configured(**changes: object) -> Callable[[Scene], None]:
    """Change adapter_config.json."""

    def spoil(scene: Scene) -> None:
        file = scene.folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return spoil


def _zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Payload()))
    return out.getvalue()


def _linked(scene: Scene) -> None:
    file = scene.folder / "README.md"
    file.symlink_to("/etc/hostname")


def _weights_linked(scene: Scene) -> None:
    weights = scene.folder / "adapter_model.safetensors"
    weights.rename(scene.root / "elsewhere")
    weights.symlink_to(scene.root / "elsewhere")


def _hard_linked(scene: Scene) -> None:
    os.link(scene.folder / "adapter_model.safetensors", scene.root / "second-name")


def _fifo(scene: Scene) -> None:
    (scene.folder / "adapter_config.json").unlink()
    os.mkfifo(scene.folder / "adapter_config.json")


def adding(
    id_: str,
    threat: Threat,
    deed: str,
    spoil: Callable[[Scene], object],
    says: str,
    *,
    code: str = UNSAFE,
    act: Run = ADD,
    has: Has = Has.FILES,
) -> Attack:
    """Return an attack by what is added."""
    return Attack(id_, threat, has, deed, spoil, act, code, says)


CODE = (
    adding(
        "pickle-beside-weights",
        Threat.CODE,
        "Put pickled weights, `pytorch_model.bin`, beside the weights",
        put("pytorch_model.bin", pickle.dumps(Payload())),
        ".bin files can carry code",
    ),
    adding(
        "pickle-renamed",
        Threat.CODE,
        "Call the pickle `notes.txt`",
        put("notes.txt", pickle.dumps(Payload())),
        "it is a pickle, which can carry code",
    ),
    adding(
        "pickle-in-text-protocol",
        Threat.CODE,
        "Write the pickle in protocol 0, which has no magic number, as `README.md`",
        put("README.md", pickle.dumps(Payload(), protocol=0)),
        "it is a pickle, which can carry code",
    ),
    adding(
        "pickle-as-safetensors",
        Threat.CODE,
        "Call the pickle `adapter_model.safetensors`",
        header(pickle.dumps(Payload())),
        "malformed 'adapter_model.safetensors'",
        code=MALFORMED,
    ),
    adding(
        "torch-zip-renamed",
        Threat.CODE,
        "Call what `torch.save` writes `vocab.json`",
        put("vocab.json", _zipped()),
        "it is a zip archive, as torch.save writes",
    ),
    adding(
        "python-file",
        Threat.CODE,
        "Put `modeling_custom.py` into the folder",
        put("modeling_custom.py", b"import os"),
        ".py files can carry code",
    ),
    adding(
        "shared-object",
        Threat.CODE,
        "Put `libadapter.so` into the folder",
        put("libadapter.so", b"\x7fELF"),
        ".so files can carry code",
    ),
    adding(
        "program-renamed",
        Threat.CODE,
        "Call an ELF program `LICENSE`",
        put("LICENSE", b"\x7fELF\x02\x01\x01"),
        "it is an ELF program",
    ),
    adding(
        "script-renamed",
        Threat.CODE,
        "Call a shell script `README.md`",
        put("README.md", b"#!/bin/sh\nid\n"),
        "it is a script",
    ),
    adding(
        "second-weights",
        Threat.CODE,
        "Put other weights, `model.safetensors`, beside those that are checked",
        put("model.safetensors", packed({"a": entry("F32", [1], 0, 4)}, bytes(4))),
        "only adapter_model.safetensors is served",
    ),
    adding(
        "expression-in-config",
        Threat.CODE,
        "Give `rank_pattern` a regular expression that takes for ever",
        configured(rank_pattern={"(a+)+$": 4}),
        "only plain names are taken",
        code=CONFIG,
    ),
)
PATHS = (
    adding("link-out", Threat.PATHS, "Make `README.md` a link to `/etc/hostname`", _linked, "it is a symbolic link"),
    adding(
        "weights-linked", Threat.PATHS, "Make the weights a link out of the folder", _weights_linked, "a symbolic link"
    ),
    adding("hard-link", Threat.PATHS, "Give the weights a second name elsewhere", _hard_linked, "it is a hard link"),
    adding("fifo", Threat.PATHS, "Make `adapter_config.json` a FIFO", _fifo, "not a regular file"),
    adding("backslash", Threat.PATHS, "Call a file `..\\evil.json`", put("..\\evil.json", b"{}"), "holds a backslash"),
    adding(
        "bidi-name",
        Threat.PATHS,
        "Call a file `README` with a character that turns the direction of text",
        put("README\u202egpj.md", b"hello"),
        "unprintable characters",
    ),
    adding(
        "folder-is-a-file",
        Threat.PATHS,
        "Make `adapter_model.safetensors` a folder",
        lambda scene: ((scene.folder / "adapter_model.safetensors").unlink(), _make_folder(scene)),
        "not a regular file",
    ),
)


def _make_folder(scene: Scene) -> None:
    (scene.folder / "adapter_model.safetensors").mkdir()


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info.tobuf(tarfile.GNU_FORMAT)


def archived(change: Callable[[bytes], bytes]) -> Callable[[Scene], None]:
    """Change the bytes of the archive."""
    return lambda scene: scene.archive.write_bytes(change(scene.archive.read_bytes())) and None


def _manifest_edited(data: bytes, old: bytes, new: bytes) -> bytes:
    """Change the manifest and leave the archive right in every other respect."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        first, second = tar.getmembers()[:2]
        text = data[first.offset_data : first.offset_data + first.size].replace(old, new, 1)
        rest = data[second.offset :]
    return header_of(MANIFEST_NAME, len(text)) + text + padding_of(len(text)) + rest


def importing(id_: str, deed: str, change: Callable[[bytes], bytes], says: str) -> Attack:
    """Return an attack by an archive, on a home that does not have what it holds."""
    return adding(id_, Threat.ARCHIVES, deed, archived(change), says, code="registry.archive", act=IMPORT)


ARCHIVES = (
    importing(
        "archive-flipped-bit",
        "Flip one bit of a weight in what `export` wrote",
        lambda data: data[:-2000] + bytes([data[-2000] ^ 1]) + data[-1999:],
        "should be sha256:",
    ),
    importing("archive-cut", "Cut the archive short", lambda data: data[:-4096], "the archive is cut off"),
    importing(
        "archive-traversal",
        "Append a member called `../../evil`",
        lambda data: data[:-1024] + _member("../../evil") + bytes(1024),
        "something else is where the end should be",
    ),
    importing(
        "archive-link",
        "Let it begin with a link called `manifest.json` to `/etc/passwd`",
        lambda data: _member("manifest.json", tarfile.SYMTYPE, "/etc/passwd") + data,
        "does not begin with a manifest.json",
    ),
    importing(
        "archive-trailing", "Append a program behind the end", lambda data: data + b"\x7fELF", "bytes behind the end"
    ),
    importing(
        "archive-renamed-file",
        "Have the manifest call a file `../../etc/passwd`",
        lambda data: _manifest_edited(data, b"adapter_config.json", b"../../etc/passwd"),
        "manifest.json is refused at 'contents.",
    ),
)


def _one(**changes: object) -> dict[str, object]:
    return {"a": {**entry("BF16", [2, 4], 0, 16), **changes}}


def bomb(id_: str, deed: str, content: bytes, says: str) -> Attack:
    """Return an attack by the header of the weights."""
    return adding(id_, Threat.HEADERS, deed, header(content), says, code=MALFORMED)


HEADERS = (
    bomb(
        "header-bomb",
        "Claim a header of 2^64 - 1 bytes",
        struct.pack("<Q", 2**64 - 1) + b"{}",
        "claims 18446744073709551615 bytes",
    ),
    bomb(
        "half-a-million-tensors",
        "Declare 500 000 empty tensors",
        packed({f"t{number}": 0 for number in range(500_000)}),
        "it has 500000 tensors",
    ),
    bomb(
        "absurd-axis",
        "Declare a tensor of shape [2^63 - 1, 0]",
        packed(_one(shape=[2**63 - 1, 0]), bytes(16)),
        "with an absurd 9223372036854775807",
    ),
    bomb(
        "overflowing-shape",
        "Declare a shape whose product overflows 64 bits",
        packed(_one(shape=[2**33, 2**33]), bytes(16)),
        "[8589934592, 8589934592]",
    ),
    bomb(
        "overlapping-tensors",
        "Let two tensors share their bytes",
        packed({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, bytes(12)),
        "overlaps the one before",
    ),
    bomb(
        "duplicate-tensor",
        "Declare one tensor twice, so that two readers see two files",
        packed(b'{"a": {}, "a": {}}'),
        "has the key 'a' twice",
    ),
    bomb(
        "tensor-named-like-a-path",
        "Call a tensor `../../etc/x`",
        packed({"../../etc/x": entry("F32", [1], 0, 4)}, bytes(4)),
        "reads like a path out of the file",
    ),
    bomb("deep-header", "Nest the header 200 000 deep", packed(b'{"a":' + b"[" * 200_000), "nested too deeply"),
    bomb(
        "hidden-tail",
        "Hide a script behind the last tensor",
        packed(_one(), bytes(16) + b"#!/bin/sh"),
        "has more after them",
    ),
    adding(
        "huge-rank",
        Threat.HEADERS,
        "Declare rank 100 000",
        configured(r=100_000),
        "r is 100000 and must be less than or equal to 512",
        code=CONFIG,
    ),
    adding(
        "huge-config",
        Threat.HEADERS,
        "Pad `adapter_config.json` to 2 MiB",
        lambda scene: (scene.folder / "adapter_config.json").write_bytes(b" " * 2**21),
        "it has 2097152 bytes",
    ),
)
ATTACKS: tuple[Attack, ...] = (*CODE, *PATHS, *ARCHIVES, *HEADERS)
