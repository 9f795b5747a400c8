"""One request's share of the counters, from the moment it is let in until it is over."""

from __future__ import annotations

from types import TracebackType
from typing import NamedTuple, Protocol

from loractl.quotas.counters import Counters
from loractl.quotas.moments import Moment
from loractl.quotas.standing import Standing
from loractl.quotas.windows import WINDOW_S
from loractl_registry.tenancy import Limits


class Scope(NamedTuple):
    """What a request is counted against: its tenant, or its tenant on one adapter.

    Attributes:
        adapter: Empty for the tenant in all.
    """

    tenant: str
    adapter: str
    limits: Limits
    counters: Counters


class Book(Protocol):
    """Where a reservation was made."""

    def advanced(self, scopes: tuple[Scope, ...]) -> Moment:
        """Bring the counters up to now, note that they are about to change, and return the time."""
        ...

    def standing(self, tenant: str, adapter: str) -> Standing:
        """Return what is left of each limit now."""
        ...


class Reservation:
    """Counts a request's tokens as they become known, and gives its place free exactly once.

    As a context it releases itself at the end, whatever ends it. Used from one event loop only, like its `Quotas`.

    Attributes:
        charged: Tokens that are counted for it so far.
        is_open: Whether it still holds a place.
    """

    __slots__ = ("_adapter", "_book", "_charges", "_day", "_day_charged", "_scopes", "charged", "is_open")

    def __init__(self, book: Book, scopes: tuple[Scope, ...], moment: Moment, *, adapter: str, tokens: int) -> None:
        self._book, self._scopes, self._adapter = book, scopes, adapter
        self.is_open = True
        self.charged = 0
        self._charges: list[tuple[int, int]] = []  # the second, and how much was charged in it; oldest first
        self._day, self._day_charged = moment.today, 0
        for scope in scopes:
            scope.counters.in_flight += 1
            scope.counters.requests.add(moment.second, 1)
        self._charge(moment, tokens)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def report(self, so_far: int) -> None:
        """Count what an answer has come to so far, its prompt included, where that is more than was counted.

        Without it a long answer would be counted at its end alone, and not at all if the process is killed before.
        """
        if self.is_open and so_far > self.charged:
            self._charge(self._book.advanced(self._scopes), so_far - self.charged)

    def settle(self, actual: int) -> None:
        """Correct the tokens that were counted to `actual`, and release; 0 if the engine never got the request.

        What was counted too much is taken back where it was counted, the newest first; what was counted too little
        counts as used now. After a release it does nothing.
        """
        if actual < 0:
            raise ValueError(f"a request cannot have used {actual} tokens")
        if not self.is_open:
            return
        moment = self._book.advanced(self._scopes)
        if actual > self.charged:
            self._charge(moment, actual - self.charged)
        elif actual < self.charged:
            self._take_back(moment, self.charged - actual)
        self.release()

    def release(self) -> None:
        """Give the place free and leave the count as it stands; safe to repeat."""
        if self.is_open:
            self.is_open = False
            for scope in self._scopes:
                scope.counters.in_flight -= 1

    def standing(self) -> Standing:
        """Return what is left of each limit now, for the headers of the answer."""
        return self._book.standing(self._scopes[0].tenant, self._adapter)

    def _charge(self, moment: Moment, tokens: int) -> None:
        self.charged += tokens
        for scope in self._scopes:
            scope.counters.add_tokens(moment.second, tokens)
        if moment.today != self._day:
            self._day, self._day_charged = moment.today, 0
        self._day_charged += tokens
        if self._charges and self._charges[-1][0] == moment.second:
            tokens += self._charges.pop()[1]
        elif self._charges and self._charges[0][0] < moment.second - WINDOW_S:
            del self._charges[0]  # out of every window; a charge a second keeps the list as long as the window
        self._charges.append((moment.second, tokens))

    def _take_back(self, moment: Moment, tokens: int) -> None:
        self.charged -= tokens
        if moment.today == self._day:
            today = min(tokens, self._day_charged)
            for scope in self._scopes:
                scope.counters.day.used -= today
        while tokens and self._charges:
            second, amount = self._charges.pop()
            taken = min(tokens, amount)
            tokens -= taken
            for scope in self._scopes:
                scope.counters.tokens.take_back(second, taken)
