"""The demo's second half: serve, ask, and change things under the running server."""

from __future__ import annotations

import json
from pathlib import Path

from loractl.demo.chat import Answer, Question, ask_together, is_overlapping, list_models
from loractl.demo.claims import Claim
from loractl.demo.commands import loractl_argv
from loractl.demo.server import Server, pick_port
from loractl.demo.stage import (
    BASE,
    LAWYER,
    PIRATE,
    READMISSION_S,
    SHAKESPEARE,
    DemoStoppedError,
    Stage,
    is_neutral,
    speaks,
)

MODELS = (BASE, PIRATE, SHAKESPEARE)
ASKED = "How is the weather today?"
QUESTIONS = (ASKED, "What do you know about the moon?", "What is the best way to bake bread?")
UNKNOWN = "nobody"


def serve(stage: Stage, preferred_port: int) -> None:
    """Start the server.

    Raises:
        DemoStoppedError: It did not come up.
    """
    stage.narrator.step(
        "Serve", "vLLM starts with exactly what is approved, behind loractl's gateway. About half a minute."
    )
    port = pick_port(preferred_port)
    line = f"loractl serve {BASE} --port {port}"
    stage.narrator.command(f"{line} &")
    stage.server = Server(
        loractl_argv(line),
        cwd=stage.files.root,
        environment=stage.shell.environment,
        port=port,
        log=stage.home / "demo-serve.log",
    )
    with stage.narrator.waiting("vLLM is starting ..."):
        is_ready = stage.server.wait_ready()
    stage.narrator.output("\n".join(stage.server.last_lines(12 if is_ready else 30)))
    exit_code = stage.server.exit_code()
    found = f"process {stage.server.pid} answers on {stage.url}" if is_ready else f"exit code {exit_code}"
    stage.observe(Claim.SERVER_READY, found, is_seen=is_ready)
    if not is_ready:
        raise DemoStoppedError


def list_served(stage: Stage) -> None:
    """List what is served, and ask what is not."""
    stage.narrator.step("Ask for one that is not approved", "A draft answers as if it did not exist.")
    stage.narrator.command(f"curl -s {stage.url}/v1/models")
    listed = list_models(stage.url)
    stage.narrator.output("\n".join(listed))
    allowed = {BASE, PIRATE, f"{PIRATE}@1", SHAKESPEARE, f"{SHAKESPEARE}@1"}
    is_exact = {BASE, f"{PIRATE}@1", f"{SHAKESPEARE}@1"} <= set(listed) <= allowed
    stage.observe(Claim.ONLY_APPROVED_LISTED, ", ".join(listed), is_seen=is_exact)

    refused = [stage.ask(name, ASKED) for name in (LAWYER, f"{LAWYER}@1", UNKNOWN)]
    is_same = all(answer.is_refused for answer in refused) and len({answer.body for answer in refused}) == 1
    statuses = ", ".join(f"{answer.question.model} {answer.status}" for answer in refused)
    stage.observe(Claim.DRAFT_REFUSED, statuses, is_seen=is_same)


def ask_mixed(stage: Stage) -> None:
    """Ask the base and both adapters in one batch."""
    stage.narrator.step(
        "Ask the base and both adapters at once",
        "One engine, one batch; every row goes through its own adapter or none.",
    )
    questions = [Question(model, text) for text in QUESTIONS for model in MODELS]
    stage.narrator.command(f"{len(questions)} x POST {stage.url}/v1/chat/completions, streaming, all at once")
    with stage.narrator.streaming(questions) as texts:
        answers = ask_together(stage.url, questions, texts.__setitem__)

    by_model = {model: [answer for answer in answers if answer.question.model == model] for model in MODELS}
    stage.observe(Claim.BASE_NEUTRAL, _found(by_model[BASE]), is_seen=all(map(is_neutral, by_model[BASE])))
    for claim, name in ((Claim.PIRATE_SPEAKS, PIRATE), (Claim.SHAKESPEARE_SPEAKS, SHAKESPEARE)):
        spoke = all(speaks(answer, f"{name}@1") for answer in by_model[name])
        stage.observe(claim, _found(by_model[name]), is_seen=spoke)
    rounds = [[answer for answer in answers if answer.question.text == text] for text in QUESTIONS]
    together = sum(map(is_overlapping, rounds))
    stage.observe(Claim.MIXED_BATCH, f"in {together} of {len(rounds)} questions", is_seen=together == len(rounds))


def tamper(stage: Stage) -> None:
    """Flip one byte of a live version's stored file, then put it back."""
    stage.narrator.step("Flip one byte of a stored file", "The store is read-only, so somebody must have meant it.")
    ref = f"{SHAKESPEARE}@1"
    file = _stored_weights(stage, ref)
    stage.narrator.command(f"# flip the last byte of {file}")
    _flip_last_byte(file)
    try:
        refused, waited = stage.ask_until(SHAKESPEARE, ASKED, lambda answer: answer.is_refused)
        stage.observe(Claim.TAMPERED_REFUSED, f"HTTP {refused.status} after {waited:.2f} s", is_seen=refused.is_refused)
        others = [stage.ask(PIRATE, ASKED), stage.ask(BASE, ASKED)]
        is_serving = speaks(others[0], f"{PIRATE}@1") and is_neutral(others[1])
        stage.observe(Claim.OTHERS_KEEP_SERVING, _found(others), is_seen=is_serving)
        verified = stage.type(f"loractl verify {ref}")
        actions = [str(row.get("action")) for row in stage.shell.rows(f"loractl history {SHAKESPEARE} --json")]
        is_found = verified.exit_code == 3 and "adapter.refused" in actions
        found = f"verify: exit code {verified.exit_code}; history: {', '.join(actions)}"
        stage.observe(Claim.TAMPER_VERIFIED, found, is_seen=is_found)
    finally:
        _flip_last_byte(file)
    stage.narrator.command("# put the byte back")
    restored = stage.type(f"loractl verify {ref}")
    answer, waited = stage.ask_until(SHAKESPEARE, ASKED, lambda answer: answer.model == ref, READMISSION_S)
    is_back = restored.exit_code == 0 and speaks(answer, ref)
    found = f"verify: exit code {restored.exit_code}; {_found([answer])} after {waited:.1f} s"
    stage.observe(Claim.RESTORED, found, is_seen=is_back)


def change_version(stage: Stage) -> None:
    """Promote version 2 of one adapter while the server runs."""
    stage.narrator.step("Promote version 2 while the server runs", "Version 2 was trained on another catchphrase.")
    stage.type(f"loractl add {PIRATE} {stage.files.adapter('pirate-v2')}")
    stage.type(f"loractl promote {PIRATE}@2 --to live --reason 'ye is better than matey'")
    answer, waited = stage.ask_until(PIRATE, ASKED, lambda answer: answer.model == f"{PIRATE}@2")
    found = f"{_found([answer])} after {waited:.2f} s"
    stage.observe(Claim.SECOND_VERSION_SPEAKS, found, is_seen=speaks(answer, f"{PIRATE}@2"))


def revoke_and_roll_back(stage: Stage) -> None:
    """Revoke version 2 and return to version 1."""
    stage.narrator.step("Revoke it, and roll back", "Revoked is for ever; rollback returns to what was live before.")
    stage.type(f"loractl revoke {PIRATE}@2 --reason 'scurvy is not a joke' --yes")
    by_number, waited = stage.ask_until(f"{PIRATE}@2", ASKED, lambda answer: answer.is_refused)
    by_name = stage.ask(PIRATE, ASKED)
    is_refused = by_number.is_refused and by_name.model != f"{PIRATE}@2"
    found = f"by number HTTP {by_number.status} after {waited:.2f} s, by name {_found([by_name])}"
    stage.observe(Claim.REVOKED_REFUSED, found, is_seen=is_refused)

    stage.type(f"loractl rollback {PIRATE}")
    answer, waited = stage.ask_until(PIRATE, ASKED, lambda answer: answer.model == f"{PIRATE}@1")
    is_back = speaks(answer, f"{PIRATE}@1") and stage.stages().get(f"{PIRATE}@2") == "revoked"
    stage.observe(Claim.ROLLED_BACK, f"{_found([answer])} after {waited:.2f} s", is_seen=is_back)


def stop(stage: Stage) -> None:
    """Stop the server, whatever happened before."""
    if stage.server is None:
        return
    stage.narrator.step("Stop", "Running answers end, the engine goes, nothing stays behind.")
    stage.narrator.command(f"kill -INT {stage.server.pid}")
    stopped = stage.server.stop()
    stage.observe(Claim.STOPPED, str(stopped), is_seen=stopped.is_clean and stopped.exit_code == 0)


def _found(answers: list[Answer]) -> str:
    return " | ".join(f"{a.model}: {a.text}" if a.text else f"HTTP {a.status} {a.body}" for a in answers)


def _stored_weights(stage: Stage, ref: str) -> Path:
    for row in stage.shell.rows("loractl list --json"):
        if row.get("ref") == ref:
            algorithm, _, digest = str(row.get("digest")).partition(":")
            return stage.home / "store" / algorithm / digest[:2] / digest / "adapter_model.safetensors"
    raise DemoStoppedError


def _flip_last_byte(file: Path) -> None:
    mode = file.stat().st_mode
    file.chmod(0o644)
    try:
        with file.open("r+b") as weights:
            weights.seek(-1, 2)
            (byte,) = weights.read(1)
            weights.seek(-1, 2)
            weights.write(bytes([byte ^ 0x01]))
    finally:
        file.chmod(mode)


def openai_snippet(url: str) -> str:
    """Return a Python program that asks the server through the official client."""
    return (
        "from openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{url}/v1", api_key="unused")\n'
        f"messages = [{json.dumps({'role': 'user', 'content': ASKED})}]\n"
        f'print(client.chat.completions.create(model="{PIRATE}", messages=messages, temperature=0))'
    )
