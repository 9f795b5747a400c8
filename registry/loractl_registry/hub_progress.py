"""The bar that huggingface_hub moves, made to tell our progress."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Self, cast

from loractl_registry.progress import Progress

if TYPE_CHECKING:
    from huggingface_hub.utils.tqdm import tqdm


def bar_class(progress: Progress) -> type[tqdm]:
    """Return a class with as much of tqdm as huggingface_hub uses for one file."""

    class Bar:
        def __init__(self, **options: object) -> None:
            self.total = options.get("total")
            self.n = 0
            self.disable = False

        def update(self, n: float | None = 1) -> None:
            progress.advance(int(n or 0))

        def update_transfer(self, n: float | None = 1) -> None:
            """Ignore bytes on the wire: files are what is counted."""

        def set_postfix_str(self, text: str = "", refresh: object = None) -> None:
            """Ignore the rate."""

        set_transfer_postfix_str = set_postfix_str
        set_description = set_postfix_str
        set_description_str = set_postfix_str

        def refresh(self) -> None:
            """Ignore that it would be drawn."""

        def close(self) -> None:
            """Ignore the end of one file."""

        def __enter__(self) -> Self:
            return self

        def __exit__(
            self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
        ) -> None:
            return None

    return cast("type[tqdm]", Bar)
