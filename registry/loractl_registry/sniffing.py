"""Telling files that can carry code from data, by their names and by their first bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping

HEAD_BYTES = 64 * 2**10

# fmt: off
_CODE_SUFFIXES = frozenset({
    # Pickles, and weights in formats that may hold one.
    ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".dill", ".npy", ".npz", ".h5", ".hdf5", ".keras",
    ".msgpack", ".pb", ".mar",
    # Code, and what installs it.
    ".py", ".pyc", ".pyo", ".pyd", ".pyw", ".pyx", ".ipynb", ".so", ".dll", ".dylib", ".exe", ".o", ".a", ".wasm",
    ".class", ".jar", ".whl", ".egg", ".sh", ".bash", ".zsh", ".fish", ".csh", ".bat", ".cmd", ".ps1", ".js", ".mjs",
    ".cjs", ".ts", ".rb", ".pl", ".lua", ".php", ".r", ".jl",
    # Archives, in which any of these may be.
    ".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar", ".lz4",
})
# fmt: on

_MAGIC: Mapping[bytes, str] = {
    b"PK\x03\x04": "a zip archive, as torch.save writes",
    b"PK\x05\x06": "a zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a rar archive",
    b"\x7fELF": "an ELF program",
    b"MZ": "a Windows program",
    b"\xfe\xed\xfa\xce": "a Mach-O program",
    b"\xfe\xed\xfa\xcf": "a Mach-O program",
    b"\xce\xfa\xed\xfe": "a Mach-O program",
    b"\xcf\xfa\xed\xfe": "a Mach-O program",
    b"\xca\xfe\xba\xbe": "a Java class",
    b"\x00asm": "a WebAssembly program",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"\x93NUMPY": "a NumPy file",
    b"#!": "a script",
    b"\x80\x02": "a pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
}
_TAR_MAGIC_AT = 257

# A pickle that names nothing holds plain numbers and texts.
_NAMING_OPCODES = frozenset({"GLOBAL", "INST"})
_CALLING_OPCODES = frozenset({"REDUCE", "OBJ", "NEWOBJ", "BUILD", "STOP", "MARK", "TUPLE", "EMPTY_TUPLE", "PUT"})
_IDENTIFIERS = re.compile(r"[A-Za-z_][\w.]* [A-Za-z_][\w.]*", re.ASCII)


def code_suffix(name: str) -> str | None:
    """Return the ending of `name` that stands for code, an archive or a pickle, or None."""
    _, dot, ending = name.lower().rpartition(".")
    suffix = dot + ending
    return suffix if suffix in _CODE_SUFFIXES else None


def dangerous_content(head: bytes) -> str | None:
    """Return what a file that begins with `head` (up to `HEAD_BYTES`) is if it can carry code, or None."""
    for magic, meaning in _MAGIC.items():
        if head.startswith(magic):
            return meaning
    if head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar":
        return "a tar archive"
    return "a pickle" if _is_text_pickle(head) else None


def _is_text_pickle(head: bytes) -> bool:
    """Whether `head` reads as a pickle of protocol 0 or 1, which have no magic number, and names or calls something."""
    import pickletools  # needed for files of unknown kind alone

    named = False
    try:
        for opcode, argument, _ in pickletools.genops(head):
            if opcode.name in _NAMING_OPCODES:
                # Prose may begin with the letter of such an opcode, and then its lines are no identifiers.
                named = named or _IDENTIFIERS.fullmatch(str(argument)) is not None
            elif named and opcode.name in _CALLING_OPCODES:
                return True
    except (ValueError, IndexError, OverflowError):
        return False
    return named
