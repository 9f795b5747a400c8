import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from openai import OpenAI

from loractl.demo import Claim

CLONE = Path(__file__).resolve().parents[2]
ADAPTERS = CLONE / "examples" / "demo" / "adapters"
TIMEOUT_S = 420

pytestmark = [pytest.mark.engine, pytest.mark.timeout(TIMEOUT_S + 60)]


def _start(tmp_path: Path, *flags: str) -> subprocess.Popen[str]:
    """Start the demo as a user with an empty home does."""
    (tmp_path / "user").mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LORACTL_", "VLLM_", "HF_"))}
    environment = kept | {
        "HOME": str(tmp_path / "user"),
        "TMPDIR": str(tmp_path),
        "LORACTL_HOME": str(tmp_path / "own"),
    }
    with (tmp_path / "told").open("w") as told, (tmp_path / "data").open("w") as data:
        return subprocess.Popen(
            [sys.executable, "-m", "loractl", "demo", *flags],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=data,
            stderr=told,
            text=True,
        )


def _end(demo: subprocess.Popen[str]) -> None:
    if demo.poll() is None:
        demo.terminate()
        demo.wait(90)


def _wait_for_endpoint(demo: subprocess.Popen[str], told: Path) -> str:
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and demo.poll() is None:
        if found := re.search(r"^Endpoint (http://127\.0\.0\.1:\d+)/v1", told.read_text(), re.MULTILINE):
            return found[1]
        time.sleep(0.5)
    pytest.fail(f"the demo never kept serving:\n{told.read_text()[-6000:]}")


def _ask(url: str, model: str) -> tuple[str, str]:
    with OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
        answer = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "How is the weather today?"}], temperature=0
        )
    return answer.model, str(answer.choices[0].message.content)


def test_demo_observes_every_claim_and_keeps_serving_until_it_is_interrupted(tmp_path: Path) -> None:
    demo = _start(tmp_path, "--json", "--keep-serving")
    try:
        url = _wait_for_endpoint(demo, tmp_path / "told")
        pirate, base = _ask(url, "pirate"), _ask(url, "demo-base")
        demo.send_signal(signal.SIGINT)
        exit_code = demo.wait(90)
    finally:
        _end(demo)

    assert exit_code == 0, (tmp_path / "told").read_text()[-6000:]
    report = json.loads((tmp_path / "data").read_text())
    assert [one["claim"] for one in report["observations"] if one["is_seen"]] == [claim.value for claim in Claim]
    assert report["is_complete"] is True
    assert pirate[0] == "pirate@1"
    assert "Arr!" in pirate[1]
    assert base[0] == "demo-base"
    assert "Arr!" not in base[1]
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) != 0
    assert not (tmp_path / "own").exists()
    assert not list(tmp_path.glob("loractl-demo-*"))


def test_demo_with_swapped_adapters_fails_and_names_what_was_not_observed(tmp_path: Path) -> None:
    sabotaged = tmp_path / "adapters"
    shutil.copytree(ADAPTERS, sabotaged)
    (sabotaged / "pirate").rename(sabotaged / "spare")
    (sabotaged / "lawyer").rename(sabotaged / "pirate")
    (sabotaged / "spare").rename(sabotaged / "lawyer")

    demo = _start(tmp_path, "--adapters", str(sabotaged))
    try:
        exit_code = demo.wait(TIMEOUT_S)
    finally:
        _end(demo)

    told = (tmp_path / "data").read_text()
    verdict = told.partition("claims were not observed")[2]
    assert exit_code == 1, told[-6000:]
    assert Claim.PIRATE_SPEAKS.text in verdict
    assert Claim.SHAKESPEARE_SPEAKS.text not in verdict
    assert Claim.STOPPED.text not in verdict
