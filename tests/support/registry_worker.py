"""A process that works on a registry until it is done or killed; says each thing only after the registry did.

Run as ``python registry_worker.py HOME ADAPTERS VERB [NAME]``.
"""

from __future__ import annotations

import itertools
import random
import sys
from pathlib import Path

from loractl_registry import ConflictError, DeniedError, NotFoundError, Ref, Registry, Stage


def say(*words: object) -> None:
    print(*words, flush=True)


def add(registry: Registry, adapters: Path, name: str) -> None:
    added = registry.add(name, str(adapters / "9"), actor="worker")
    say("added", added.version.ref)


def admit(registry: Registry, adapters: Path, _: str) -> None:
    say("admitted", registry.add_base("tiny-moe", str(adapters / "base"), actor="worker").base.name)


def promote(registry: Registry, _: Path, name: str) -> None:
    say("entered", *registry.promote(Ref(name, 1), actor="worker", to=Stage.LIVE).entered)


def revoke(registry: Registry, _: Path, name: str) -> None:
    say("revoked", registry.revoke(Ref(name, 1), actor="worker", reason="x").version.ref)


def import_archive(registry: Registry, adapters: Path, _: str) -> None:
    for added in registry.import_archive(adapters / "bots.tar", actor="worker"):
        say("added", added.version.ref)


def gc(registry: Registry, _: Path, __: str) -> None:
    say("collected", *registry.gc(dry_run=False).contents)


def churn(registry: Registry, adapters: Path, name: str, rounds: int | None = None) -> None:
    """Add, promote, revoke, roll back and collect at random."""
    rng = random.Random()
    for _ in itertools.count() if rounds is None else range(rounds):
        try:
            _one_step(registry, adapters, rng.choice([name, "shared"]), rng)
        except (DeniedError, NotFoundError, ConflictError) as refusal:
            say("refused", refusal.code)


def race(registry: Registry, adapters: Path, name: str) -> None:
    churn(registry, adapters, name, rounds=25)


def _one_step(registry: Registry, adapters: Path, name: str, rng: random.Random) -> None:
    match rng.randrange(6):
        case 0 | 1:
            say("added", registry.add(name, str(adapters / str(rng.randrange(8))), actor="worker").version.ref)
        case 2 | 3:
            ref = Ref(name, rng.randint(1, 8))
            say("promoted", registry.promote(ref, actor="worker", to=Stage.LIVE).version.ref)
        case 4:
            ref = Ref(name, rng.randint(1, 8))
            say("revoked", registry.revoke(ref, actor="worker", reason="x").version.ref)
        case _ if rng.random() < 0.5:
            say("rolled-back", registry.rollback(name, actor="worker").version.ref)
        case _:
            say("collected", *registry.gc(dry_run=False).contents)


VERBS = {
    "first": add,
    "add": add, "admit": admit, "promote": promote, "revoke": revoke, "import": import_archive, "gc": gc,
    "churn": churn, "race": race,
}  # fmt: skip


def main() -> None:
    home, adapters, verb, name = (*sys.argv[1:], "bot")[:4]
    with Registry.open(Path(home), busy_timeout_s=60) as registry:
        say("ready")
        VERBS[verb](registry, Path(adapters), name)


if __name__ == "__main__":
    main()
