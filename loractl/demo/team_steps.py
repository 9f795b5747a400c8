"""The demonstration of a team: who may do what, and what becomes of it when somebody edits the home."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import cast

from loractl.demo.commands import Outcome
from loractl.demo.intruder import INTRUDER, flip_stage_sql, put_database, replay_sql, run_sql
from loractl.demo.stage import BASE, PIRATE, SHAKESPEARE, DemoStoppedError, Stage
from loractl.demo.team_claims import TeamClaim

OSCAR, CARL, RITA = "oscar", "carl", "rita"
ROLES = {CARL: ("contributor", "reviewer"), RITA: ("reviewer",)}
_DENIED = 3
_DRY_RUN = f"loractl serve {BASE} --port 0 --dry-run"
_SCANNER = "find {folder} -type f -size -1G"


def trust_people(stage: Stage) -> None:
    """Create three identities; the first is an operator, who trusts the others.

    Raises:
        DemoStoppedError: Nobody could sign anything.
    """
    stage.narrator.step(
        "Three people",
        "oscar runs the service, carl makes adapters, rita reads them. Each signs with a key of their own.",
    )
    stage.type_as(OSCAR, f"loractl identity create {OSCAR}")
    for name, roles in ROLES.items():
        stage.type_as(name, f"loractl identity create {name}")
        key = shlex.quote(str(stage.home / "keys" / f"{name}.pem.pub"))
        stage.type_as(OSCAR, f"loractl identity trust {name} {key} {' '.join(f'--role {role}' for role in roles)}")
    stage.type_as(OSCAR, "loractl identity list")
    found = {
        str(row.get("name")): row.get("roles")
        for row in stage.shell.rows("loractl identity list --json")
        if row.get("is_trusted")
    }
    wanted = {name: sorted(roles) for name, roles in ROLES.items()}
    is_seen = set(found) == {OSCAR, *ROLES} and all(found[name] == roles for name, roles in wanted.items())
    stage.observe(TeamClaim.PEOPLE_TRUSTED, str(found), is_seen=is_seen)
    if not is_seen:
        raise DemoStoppedError


def set_policy(stage: Stage) -> None:
    """Put the policy of a team into the home."""
    stage.narrator.step(
        "A policy", "Without one, one person may climb every rung. The preset for a team asks for more."
    )
    stage.type_as(OSCAR, "loractl policy init --preset team")
    checked = stage.type_as(OSCAR, "loractl policy check")
    stage.observe(TeamClaim.POLICY_IN_FORCE, said(checked), is_seen=checked.exit_code == 0)


def add_adapters(stage: Stage) -> None:
    """Admit the base, add two adapters, and promote them to candidate."""
    stage.narrator.step("Carl adds two adapters", "He signs their files, and that it was he who added them.")
    stage.type_as(OSCAR, f"loractl base add {BASE} {stage.files.base} --licence Apache-2.0")
    for name in (PIRATE, SHAKESPEARE):
        stage.type_as(CARL, f"loractl add {name} {stage.files.adapter(name)}")
        stage.type_as(CARL, f"loractl promote {name}@1 --no-prove")
    stages = stage.stages()
    wanted = {f"{PIRATE}@1": "candidate", f"{SHAKESPEARE}@1": "candidate"}
    stage.observe(TeamClaim.ADDED, str(stages), is_seen=stages == wanted)
    asked = stage.type_as(RITA, f"loractl policy explain {PIRATE}@1")
    is_seen = is_denied(asked, "adapter.approved.approvals", "adapter.approved.evidence[2]")
    stage.observe(TeamClaim.FACTS_ASKED, said(asked), is_seen=is_seen)


def give_evidence(stage: Stage) -> None:
    """Measure the effect of both adapters, scan them, and give results of an evaluation."""
    stage.narrator.step(
        "Carl gives evidence", "A proof of effect, a scan by any command of yours, and an evaluation; signed."
    )
    results = _folder(stage) / "results.json"
    results.write_text('{"catchphrase": 1.0}\n', encoding="utf-8")
    for name in (PIRATE, SHAKESPEARE):
        stage.type_as(CARL, f"loractl prove {name}@1 --no-engine")
        stage.type_as(CARL, f"loractl evidence scan {name}@1 -- {_SCANNER}")
        stage.type_as(CARL, f"loractl evidence add {name}@1 {shlex.quote(str(results))} --type eval")
    rows = stage.shell.rows(f"loractl evidence list {PIRATE}@1 --json")
    found = sorted(str(row.get("type")) for row in rows if row.get("is_counted"))
    stage.observe(TeamClaim.EVIDENCE_COUNTS, ", ".join(found), is_seen=found == ["effect", "eval", "scan"])


def refuse(stage: Stage) -> None:
    """Try to promote without an approval, and to approve one's own."""
    stage.narrator.step(
        "Not alone", "Nothing is approved without an approval, and carl's own does not count, reviewer or not."
    )
    early = stage.type_as(RITA, f"loractl promote {PIRATE}@1")
    is_named = is_denied(early, "adapter.approved.approvals", "0 of 1 count")
    stage.observe(TeamClaim.UNAPPROVED_REFUSED, said(early), is_seen=is_named)
    own = stage.type_as(CARL, f"loractl approve {PIRATE}@1 --reason 'it is mine'")
    stage.observe(TeamClaim.SELF_APPROVAL_REFUSED, said(own), is_seen=is_denied(own, "carl added it"))


def approve(stage: Stage) -> None:
    """Approve by another reviewer, and go live."""
    stage.narrator.step("Rita approves", "Her approval is a signed statement about exactly these bytes on this base.")
    stage.type_as(RITA, f"loractl approve {PIRATE}@1 --reason 'read its answers'")
    stage.type_as(RITA, f"loractl approvals {PIRATE}@1")
    stage.type_as(RITA, f"loractl promote {PIRATE}@1")
    stage.type_as(OSCAR, f"loractl promote {PIRATE}@1 --to live")
    stages = stage.stages()
    is_live = stages.get(f"{PIRATE}@1") == "live" and stages.get(f"{SHAKESPEARE}@1") == "candidate"
    stage.observe(TeamClaim.APPROVED, str(stages), is_seen=is_live)
    models = served(stage)
    stage.narrator.command(f"{_DRY_RUN} --json", by=OSCAR)
    stage.narrator.output(f"models: {', '.join(models)}")
    stage.observe(TeamClaim.SERVABLE, ", ".join(models), is_seen=set(models) == {PIRATE, f"{PIRATE}@1", BASE})


def flip_row(stage: Stage) -> None:
    """Flip a stage with SQL, and flip it back."""
    stage.narrator.step("Mallory edits a row", "Mallory can write to the database, and has nobody's key.")
    _sql(stage, flip_stage_sql(SHAKESPEARE, "approved"))
    found = stage.type_as(OSCAR, "loractl audit verify")
    models = served(stage)
    is_caught = found.exit_code == _DENIED and f"{SHAKESPEARE}@1" in found.output and f"{SHAKESPEARE}@1" not in models
    stage.observe(TeamClaim.FLIPPED_ROW_CAUGHT, f"{said(found)}; models: {', '.join(models)}", is_seen=is_caught)
    _sql(stage, flip_stage_sql(SHAKESPEARE, "candidate"))


def replay(stage: Stage) -> None:
    """Play a statement again, and put the copy from before back."""
    stage.narrator.step("Mallory plays a statement again", "It is signed, by the right key; and its place is taken.")
    backup(stage, "monday.db")
    _sql(stage, replay_sql(f"{PIRATE}@1"))
    refused = stage.type_as(OSCAR, _DRY_RUN)
    is_caught = is_denied(refused, "of the chain", "stands where sequence")
    stage.observe(TeamClaim.REPLAY_CAUGHT, said(refused), is_seen=is_caught)
    _put(stage, OSCAR, "monday.db")


def roll_back(stage: Stage) -> None:
    """Revoke a version, and put the database from before back."""
    stage.narrator.step("Mallory puts Monday's database back", "In it, what was revoked on Tuesday is live.")
    stage.type_as(OSCAR, f"loractl revoke {PIRATE}@1 --reason 'it leaks the names of the crew' --yes")
    models = served(stage)
    stage.observe(TeamClaim.REVOKED, ", ".join(models), is_seen=models == [BASE])
    backup(stage, "tuesday.db")
    _put(stage, INTRUDER, "monday.db")
    refused = stage.type_as(OSCAR, _DRY_RUN)
    is_caught = is_denied(refused, "a signed checkpoint has seen")
    stage.observe(TeamClaim.OLD_DATABASE_CAUGHT, said(refused), is_seen=is_caught)
    _put(stage, OSCAR, "tuesday.db")
    intact = stage.type_as(OSCAR, "loractl audit verify")
    stage.observe(TeamClaim.MENDED, said(intact), is_seen=intact.exit_code == 0 and "intact" in intact.output)


def revoke_key(stage: Stage) -> None:
    """Revoke a key, and see what becomes of what it signed."""
    stage.narrator.step("Rita's key is stolen", "What was approved with it, and not yet used, counts no longer.")
    given = stage.type_as(RITA, f"loractl approve {SHAKESPEARE}@1 --reason 'thou mayst'")
    was_valid = valid_approvals(stage)
    stage.type_as(OSCAR, f"loractl identity revoke {RITA} --reason 'her laptop was stolen' --yes")
    refused = stage.type_as(RITA, f"loractl demote {SHAKESPEARE}@1 --reason 'says the thief'")
    stage.observe(TeamClaim.KEY_REVOKED, said(refused), is_seen=is_denied(refused, "was revoked"))
    stage.type_as(CARL, f"loractl approvals {SHAKESPEARE}@1")
    late = stage.type_as(CARL, f"loractl promote {SHAKESPEARE}@1")
    is_void = (
        given.exit_code == 0 and was_valid == 1 and valid_approvals(stage) == 0 and is_denied(late, "0 of 1 count")
    )
    stage.observe(TeamClaim.APPROVAL_VOID, said(late), is_seen=is_void)


def served(stage: Stage) -> list[str]:
    """Return the names that a server would answer to now; empty if it would not start."""
    rows = stage.shell.rows(f"{_DRY_RUN} --json")
    return [str(name) for name in cast("list[object]", rows[0].get("models") or [])] if rows else []


def valid_approvals(stage: Stage) -> int:
    """Return how many approvals of the candidate count."""
    rows = stage.shell.rows(f"loractl approvals {SHAKESPEARE}@1 --json")
    given = rows[0].get("approvals") if rows else None
    return str(given).count("'is_valid': True")


def backup(stage: Stage, name: str) -> None:
    """Make a backup."""
    stage.type_as(OSCAR, f"loractl backup {shlex.quote(str(_copy(stage, name)))}")


def is_denied(outcome: Outcome, *words: str) -> bool:
    """Whether a command was denied, and said all of `words`, however they are wrapped."""
    told = " ".join(outcome.output.split())
    return outcome.exit_code == _DENIED and all(word in told for word in words)


def said(outcome: Outcome) -> str:
    """Return the exit code and the first lines of what a command said."""
    return f"exit code {outcome.exit_code}: {outcome.output}"


def _folder(stage: Stage) -> Path:
    """Return a folder for what the demonstration itself keeps."""
    folder = stage.home / "demo"
    folder.mkdir(exist_ok=True)
    return folder


def _copy(stage: Stage, name: str) -> Path:
    return _folder(stage) / name


def _sql(stage: Stage, statement: str) -> None:
    stage.narrator.command(f'sqlite3 $LORACTL_HOME/registry.db "{statement}"', by=INTRUDER)
    run_sql(stage.home, statement)


def _put(stage: Stage, who: str, name: str) -> None:
    copy = _copy(stage, name)
    stage.narrator.command(f"cp {shlex.quote(str(copy))} $LORACTL_HOME/registry.db", by=who)
    if not copy.exists():
        raise DemoStoppedError
    put_database(stage.home, copy)
