"""Where the demo's base and adapters are."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

CLONE = Path(__file__).resolve().parents[2]
_ADAPTERS = ("pirate", "pirate-v2", "shakespeare", "lawyer")


class DemoError(Exception):
    """The demo cannot be shown. `code` is stable; `hint` is the way out."""

    code = "demo.failed"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """The folders that the demo works on, as they are typed from `root`.

    Attributes:
        root: Where the commands are run.
        base: Folder of the base.
        adapters: Folder that holds one folder per adapter.
    """

    root: Path
    base: Path
    adapters: Path

    def adapter(self, name: str) -> str:
        """Return the folder of one adapter as a user types it."""
        return shlex.quote(str(self.adapters / name))


def find_demo_files(root: Path, adapters: Path | None) -> DemoFiles:
    """Return the demo's files in the clone at `root`, or with the adapters of another folder.

    Raises:
        DemoError: A folder is not there, as in an installation that is not a clone.
    """
    demo = Path("examples", "demo")
    files = DemoFiles(root, demo / "base", demo / "adapters" if adapters is None else adapters.resolve())
    wanted = [files.base / "config.json", *(files.adapters / name / "adapter_config.json" for name in _ADAPTERS)]
    for path in wanted:
        if not (root / path).is_file():
            hint = (
                f"--adapters wants a folder with {', '.join(_ADAPTERS)} in it"
                if adapters is not None and path.is_absolute()
                else "the demo's models come with the source: clone the repository and run make demo in it"
            )
            raise DemoError(f"cannot find the demo's {root / path}", hint=hint)
    return files
