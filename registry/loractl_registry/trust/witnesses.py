"""Where checkpoints are kept outside the database: a file, or a file that git remembers."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from loractl_registry._files import fsync
from loractl_registry.home_errors import os_errors_named
from loractl_registry.trust._small_files import read_small
from loractl_registry.trust.envelope import MAX_ENVELOPE_BYTES
from loractl_registry.trust.errors import GitWitnessError, MissingCheckpointError

FILE_MODE = 0o644

_SETTINGS = (
    "-c", "core.hooksPath=/dev/null",
    "-c", "core.fsmonitor=false",
    "-c", "commit.gpgSign=false",
    "-c", "gc.auto=0",
    "-c", "user.name=loractl",
    "-c", "user.email=loractl@localhost",
)  # fmt: skip


class Witness(Protocol):
    """A place that keeps the newest checkpoint."""

    def read(self) -> bytes:
        """Return the envelope that it holds, or raise `MissingCheckpointError`."""
        ...

    def write(self, envelope: bytes) -> None:
        """Keep `envelope` instead of what it holds.

        Whoever writes holds the home's lock and signs the head as it is then, so that no older one comes last.
        """
        ...


@dataclass(frozen=True, slots=True)
class FileWitness:
    """One file, on another disk or share at best."""

    path: Path

    def read(self) -> bytes:
        """Return the envelope that the file holds; of a larger file, enough to see that it is too large.

        Raises:
            MissingCheckpointError: There is no such file.
            RegistryError: The operating system refused.
        """
        with os_errors_named(self.path):
            try:
                return read_small(self.path, MAX_ENVELOPE_BYTES)[0]
            except (FileNotFoundError, NotADirectoryError) as error:
                raise MissingCheckpointError(str(self.path)) from error

    def write(self, envelope: bytes) -> None:
        """Replace the file in one step, on disk when this returns.

        Raises:
            RegistryError: The operating system refused; the file is as it was.
        """
        with os_errors_named(self.path):
            handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", suffix=".part", dir=self.path.parent)
            try:
                with os.fdopen(handle, "wb") as stream:
                    os.fchmod(stream.fileno(), FILE_MODE)
                    stream.write(envelope)
                    stream.flush()
                    os.fsync(stream.fileno())
                Path(name).replace(self.path)
                fsync(self.path.parent)
            finally:
                with suppress(FileNotFoundError):
                    Path(name).unlink()


@dataclass(frozen=True, slots=True)
class GitWitness:
    """One file in a git work tree, committed at every write and read from the newest commit.

    Hooks, signing and the file system monitor of the repository are off, because each of them runs a program; its
    filters are not, so use a repository of your own. Pushing is left to the owner.

    Attributes:
        path: The file; its folder lies in the work tree.
        environment: Given to git, less what would point it to another repository.
        timeout_s: How long one git command may take.
    """

    path: Path
    environment: Mapping[str, str]
    timeout_s: float = 60.0

    def read(self) -> bytes:
        """Return the envelope as the newest commit has it, whatever the work tree says.

        Raises:
            MissingCheckpointError: No commit has the file.
            GitWitnessError: The folder is no work tree, or git failed.
        """
        self._require_work_tree()
        found = self._run("cat-file", "blob", f"HEAD:./{self.path.name}")
        if found.returncode != 0:
            raise MissingCheckpointError(f"{self.path} at HEAD")
        return found.stdout[: MAX_ENVELOPE_BYTES + 1]

    def write(self, envelope: bytes) -> None:
        """Replace the file and commit it alone.

        Raises:
            GitWitnessError: The folder is no work tree, or git failed; the file is written, the commit is not.
            RegistryError: The operating system refused.
        """
        self._require_work_tree()
        FileWitness(self.path).write(envelope)
        self._must("add", "--force", "--", self.path.name)
        if self._run("diff", "--cached", "--quiet", "HEAD", "--", self.path.name).returncode != 0:
            self._must(
                "commit", "--quiet", "--no-verify", "--only", "-m", f"checkpoint {self.path.name}", "--", self.path.name
            )

    def _require_work_tree(self) -> None:
        if not self.path.parent.is_dir():
            raise GitWitnessError(self.path, "there is no such folder")
        if self._run("rev-parse", "--is-inside-work-tree").stdout.strip() != b"true":
            raise GitWitnessError(self.path, "its folder is in no git work tree that git lets this user use")

    def _must(self, *arguments: str) -> None:
        done = self._run(*arguments)
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
            raise GitWitnessError(self.path, f"git {arguments[0]}: {ascii(said[0])[1:-1][:200]}")

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        # GIT_DIR and its like would make git write elsewhere.
        kept = {name: value for name, value in self.environment.items() if not name.startswith("GIT_")}
        try:
            return subprocess.run(
                ["git", *_SETTINGS, "--literal-pathspecs", *arguments],
                cwd=self.path.parent,
                env={**kept, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=self.timeout_s,
            )
        except FileNotFoundError as error:
            raise GitWitnessError(self.path, "git is not installed") from error
        except subprocess.TimeoutExpired as error:
            raise GitWitnessError(self.path, f"git {arguments[0]} took more than {self.timeout_s:g} s") from error


def choose_witness(path: Path, environment: Mapping[str, str]) -> Witness:
    """Return what keeps a checkpoint in `path`: a repository's commits if it lies in a work tree, else the file."""
    for folder in path.absolute().parents:
        if (folder / ".git").exists():
            return GitWitness(path, environment)
    return FileWitness(path)
