"""The demo's first half: from files to approved versions."""

from __future__ import annotations

from loractl.demo.claims import Claim
from loractl.demo.stage import BASE, LAWYER, PIRATE, SHAKESPEARE, Stage

ADAPTERS = (PIRATE, SHAKESPEARE, LAWYER)


def admit_base(stage: Stage) -> None:
    """Admit the base."""
    stage.narrator.step("Admit the base", "A base is known by the digest of its config, tokenizer and weights.")
    outcome = stage.type(f"loractl base add {BASE} {stage.files.base} --licence Apache-2.0")
    digests = [
        str(row.get("digest")) for row in stage.shell.rows("loractl base list --json") if row.get("name") == BASE
    ]
    is_admitted = outcome.exit_code == 0 and len(digests) == 1 and digests[0].startswith("sha256:")
    stage.observe(Claim.BASE_ADMITTED, digests[0] if digests else outcome.output, is_seen=is_admitted)


def add_adapters(stage: Stage) -> None:
    """Add the three adapters."""
    stage.narrator.step(
        "Add three adapters", "Each is checked, copied into the store under its digest, and is a draft."
    )
    outcomes = [stage.type(f"loractl add {name} {stage.files.adapter(name)}") for name in ADAPTERS]
    stages = stage.stages()
    is_stored = all(o.exit_code == 0 for o in outcomes) and set(stages) == {f"{name}@1" for name in ADAPTERS}
    stage.observe(Claim.ADAPTERS_STORED, ", ".join(sorted(stages)) or outcomes[0].output, is_seen=is_stored)

    again = stage.type(f"loractl add {PIRATE} {stage.files.adapter(PIRATE)}")
    is_known = again.exit_code == 0 and f"{PIRATE}@1" in again.output and set(stage.stages()) == set(stages)
    stage.observe(Claim.SAME_BYTES_KNOWN, f"exit code {again.exit_code}", is_seen=is_known)


def list_drafts(stage: Stage) -> None:
    """List what is there."""
    stage.narrator.step("List", "What is there, where it stands, and which base it belongs to.")
    stage.type("loractl list")
    stages = stage.stages()
    is_draft = len(stages) == len(ADAPTERS) and set(stages.values()) == {"draft"}
    stage.observe(Claim.ALL_DRAFTS, said(stages), is_seen=is_draft)


def promote_two(stage: Stage) -> None:
    """Promote two of them to live."""
    stage.narrator.step(
        "Promote two to live",
        "Preflight proves without a GPU that the base can take them: names, shapes, ranks, values.",
    )
    for name in (PIRATE, SHAKESPEARE):
        stage.type(f"loractl promote {name}@1 --to live --reason 'read its answers, they are fine'")
    stage.type("loractl list")
    stages = stage.stages()
    wanted = {f"{PIRATE}@1": "live", f"{SHAKESPEARE}@1": "live", f"{LAWYER}@1": "draft"}
    stage.observe(Claim.PROMOTED, said(stages), is_seen=stages == wanted)


def said(stages: dict[str, str]) -> str:
    """Write stages in one line."""
    return ", ".join(f"{ref} {stage}" for ref, stage in sorted(stages.items())) or "nothing is listed"
