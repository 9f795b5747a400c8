"""Random verbs in random order: the rules hold after every step; audit log and signatures tell the same story."""

import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.registry import replay, write_adapter, write_base

from loractl_registry import DeniedError, NotFoundError, Ref, Registry, Stage, Verb
from loractl_registry.stages import LADDER, climb, target_of

NAMES = st.sampled_from(["bot", "other"])
SEEDS = st.integers(0, 3)
TARGETS = st.sampled_from([None, *LADDER[1:]])
NUMBERS = st.integers(1, 5)
SHM = Path("/dev/shm")


class Lifecycle(RuleBasedStateMachine):
    """Keeps a model beside the registry: the stage of every version, and the bytes of each."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(dir=SHM if SHM.is_dir() else None))
        self.now = datetime(2026, 1, 31, tzinfo=UTC)
        self.registry = Registry.open(self.folder / "home", clock=self.tick)
        self.stages = {}
        self.seeds = {}
        self.seen = [(self.now, ())]

    def tick(self):
        self.now += timedelta(seconds=1)
        return self.now

    def teardown(self):
        assert self.registry.identities.verify().problems == ()
        self.registry.close()
        for path in self.folder.rglob("*"):
            if path.is_dir():
                path.chmod(0o700)
        shutil.rmtree(self.folder)

    @initialize()
    def admit(self):
        self.registry.add_base("tiny-moe", str(write_base(self.folder / "base")), actor="ada")
        for seed in range(4):
            write_adapter(self.folder / str(seed), seed=seed)

    def remember(self):
        live = sorted(ref for ref, stage in self.stages.items() if stage is Stage.LIVE)
        self.seen.append((self.now, tuple(live)))

    def is_revoked(self, ref):
        return any(
            self.stages[other] is Stage.REVOKED and self.seeds[other] == self.seeds[ref] for other in self.stages
        )

    @rule(name=NAMES, seed=SEEDS)
    def add(self, name, seed):
        same = [ref for ref in self.stages if ref[0] == name and self.seeds[ref] == seed]

        added = self.registry.add(name, str(self.folder / str(seed)), actor="ada")

        ref = (added.version.ref.name, added.version.ref.number)
        if same:
            assert (added.is_new, [ref]) == (False, same)
        else:
            assert added.is_new
            assert ref[1] == 1 + sum(1 for other in self.stages if other[0] == name)
            self.stages[ref], self.seeds[ref] = Stage.DRAFT, seed

    @rule(name=NAMES, number=NUMBERS, to=TARGETS)
    def promote(self, name, number, to):
        ref = (name, number)
        if ref not in self.stages:
            with pytest.raises(NotFoundError):
                self.registry.promote(Ref(*ref), actor="ada", to=to)
            return
        rungs = climb(self.stages[ref], to)
        if rungs is None or (rungs and self.is_revoked(ref)):
            with pytest.raises(DeniedError):
                self.registry.promote(Ref(*ref), actor="ada", to=to)
            return

        promotion = self.registry.promote(Ref(*ref), actor="ada", to=to)

        assert promotion.entered == rungs
        self.enter(ref, rungs[-1] if rungs else self.stages[ref])

    def enter(self, ref, stage):
        if stage is Stage.LIVE:
            for other in self.stages:
                if other[0] == ref[0] and other != ref and self.stages[other] is Stage.LIVE:
                    self.stages[other] = Stage.APPROVED
        self.stages[ref] = stage
        self.remember()

    @rule(name=NAMES, number=NUMBERS, verb=st.sampled_from(Verb))
    def step_down(self, name, number, verb):
        ref = (name, number)
        act = getattr(self.registry, verb.value)
        if ref not in self.stages:
            with pytest.raises(NotFoundError):
                act(Ref(*ref), actor="ada", reason="x")
            return
        target = target_of(verb, self.stages[ref])
        ends = {Verb.REJECT: Stage.REJECTED, Verb.RETIRE: Stage.RETIRED, Verb.REVOKE: Stage.REVOKED}
        if target is None and self.stages[ref] is not ends.get(verb):
            with pytest.raises(DeniedError):
                act(Ref(*ref), actor="ada", reason="x")
            return

        change = act(Ref(*ref), actor="ada", reason="x")

        self.enter(ref, target or self.stages[ref])
        assert change.version.stage is self.stages[ref]

    @rule(name=NAMES)
    def rollback(self, name):
        before = {ref for ref in self.stages if ref[0] == name and self.stages[ref] is Stage.LIVE}
        approved = {ref for ref in self.stages if ref[0] == name and self.stages[ref] is Stage.APPROVED}
        try:
            promotion = self.registry.rollback(name, actor="ada")
        except (NotFoundError, DeniedError):
            return

        ref = (promotion.version.ref.name, promotion.version.ref.number)
        assert ref in approved - before
        self.enter(ref, Stage.LIVE)

    @rule()
    def gc(self):
        self.registry.gc(dry_run=False)

    @rule()
    def reopen(self):
        self.registry.close()
        self.registry = Registry.open(self.folder / "home", clock=self.tick)

    @invariant()
    def rows_are_the_model(self):
        rows = {(version.ref.name, version.ref.number): version.stage for version in self.registry.versions()}
        assert rows == self.stages

    @invariant()
    def audit_log_tells_the_same(self):
        told = replay(self.registry.history())
        assert told == {f"{name}@{number}": stage for (name, number), stage in self.stages.items()}

    @invariant()
    def only_what_was_signed_answers(self):
        snapshot = self.registry.snapshot("tiny-moe")
        answering = {(version.ref.name, version.ref.number) for version in snapshot.versions}
        assert answering == {ref for ref, stage in self.stages.items() if stage.is_servable}
        assert (snapshot.refused, snapshot.distrust) == ({}, None)

    @invariant()
    def past_is_what_it_was(self):
        for moment, live in self.seen[-3:]:
            assert [(ref.name, ref.number) for ref in self.registry.live_at(moment)] == list(live)

    @invariant()
    def only_needed_bytes_are_missing(self):
        for one in self.registry.verify():
            assert one.is_intact
            if one.collected_at is not None:
                assert self.stages[(one.ref.name, one.ref.number)] in (Stage.REJECTED, Stage.REVOKED)


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
