"""What an attack is: what the attacker has, the deed, the act that would profit from it, and what must stop that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from attacks.scene import Scene

DONE = "done"
Deed = Callable[["Scene"], object]


class Threat(StrEnum):
    """What is attacked, in the words of the page."""

    CODE = "Code in an adapter"
    PATHS = "Links, devices and paths"
    ARCHIVES = "Archives"
    HEADERS = "Header bombs and absurd shapes"
    NO_EFFECT = "Adapters that would change nothing"
    STORE = "Bytes swapped in the store"
    BASE = "The base"
    ROWS = "Rows edited with sqlite3"
    STATEMENTS = "Signed statements"
    NOTE = "The note of what was verified"
    ROLLBACK = "Old databases and checkpoints"
    AUDIT = "The audit log"
    EXPORT = "The record that an auditor gets"
    KEYS = "Keys"
    KEYLESS = "Accounts that sign without a key"
    FACTS = "Facts that the policy judges"
    PEOPLE = "People who may not"
    GLASS = "Break-glass"
    POLICY = "The policy"
    NAMES = "Names"
    TENANTS = "Tenants and their keys"
    SERVED = "Asking for what is not served"
    ROUTES = "The engine's other routes"
    FIELDS = "Fields that reach into the engine"
    BODIES = "Bodies and headers"


class Has(StrEnum):
    """What the attacker has."""

    FILES = "the files that somebody adds"
    DATABASE = "write access to the database"
    HOME = "write access to the whole home"
    KEY = "a private key, and write access to the database"
    RECORD = "the exported record"
    LOGIN = "an identity of their own"
    PORT = "the port"


@dataclass(frozen=True)
class Outcome:
    """How an act ended.

    Attributes:
        code: `DONE`, or the stable code of what stopped it; over HTTP with the status before it.
        said: Everything that was said about it, to the user or in the server's log.
    """

    code: str
    said: str


class Act(Protocol):
    """Something that is done to a scene, the same with and without the attack; hashable."""

    @property
    def shown(self) -> str:
        """How the page writes it."""
        ...

    def __call__(self, scene: Scene) -> Outcome:
        """Do it."""
        ...


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        deed: What the attacker does first, as the page writes it.
        spoil: Does the deed to a scene.
        act: What would profit from it.
        code, says: The code and a part of the text with which the act must be stopped.
        given: What was so before, in the attack and in its control.
        honest: What an honest user does instead of the deed; the act must then succeed.
    """

    id: str
    threat: Threat
    has: Has
    deed: str
    spoil: Deed
    act: Act
    code: str
    says: str
    given: Deed | None = None
    honest: Deed | None = None

    @property
    def control(self) -> tuple[Deed | None, Deed | None, Act]:
        """The same without the attack; attacks that share it need it only once."""
        return self.given, self.honest, self.act
