"""Every way a command can end."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.cli import LORACTL, clean_environment, run_process

from loractl.cli import context, errors
from loractl.cli.errors import ExitCode, failure_of
from loractl.serving import errors as serve_errors
from loractl_registry.errors import ConflictError, DeniedError, NotFoundError, RegistryError, UsageError


def test_done_is_0(cli, lived_in):
    assert cli("list").code == 0


def test_unexpected_failure_is_1_without_a_traceback_and_names_the_log(cli, lived_in, monkeypatch):
    monkeypatch.setattr(context, "load_settings", _raiser(RuntimeError("boom\nwith a second line")))

    result = cli("list", "--home", str(lived_in))

    assert result.code == 1
    assert "unexpected RuntimeError: boom with a second line" in result.err
    assert "Traceback" not in result.err


def test_unexpected_failure_is_logged_in_the_home(cli, lived_in, monkeypatch):
    monkeypatch.setattr("loractl_registry.Registry.summaries", _raiser(RuntimeError("boom")))

    result = cli("list")

    log = lived_in / "logs" / "cli.log"
    assert str(log) in result.err
    assert "RuntimeError: boom" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_debug_shows_the_traceback(cli, lived_in, monkeypatch):
    monkeypatch.setattr("loractl_registry.Registry.summaries", _raiser(RuntimeError("boom")))
    monkeypatch.setenv("LORACTL_DEBUG", "1")

    result = cli("list")

    assert "Traceback (most recent call last)" in result.err


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        pytest.param(("nonsense",), 2, id="usage"),
        pytest.param(("reject", "poet@1", "--reason", "x"), 3, id="denied"),
        pytest.param(("show", "poet@99"), 4, id="not-found"),
        pytest.param(("add", "tiny-moe", "{inputs}/adapter-1"), 5, id="conflict"),
    ],
)
def test_refusals_have_their_exit_code_and_say_the_way_out(cli, lived_in, inputs, argv, code):
    result = cli(*(word.format(inputs=inputs) for word in argv))

    assert (result.code, result.out) == (code, "")
    assert result.err.startswith("error: ")
    assert "\nhint: " in result.err


def test_failed_verification_is_3_and_names_the_file(cli, lived_in):
    weights = next((lived_in / "store").rglob("adapter_model.safetensors"))
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")

    result = cli("verify")

    assert result.code == 3
    assert "damaged" in result.out
    assert "adapter_model.safetensors" in result.out
    assert "differ from what was added" in result.err


def test_changed_base_is_3(cli, lived_in, home, inputs, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for file in (inputs / "base").iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    assert cli("base", "add", "other", str(base)).code == 0
    (base / "tokenizer.json").write_text("{}")

    result = cli("base", "verify", "other")

    assert result.code == 3
    assert "tokenizer.json" in result.out


def test_failing_doctor_is_1_and_says_the_way_out(cli, lived_in):
    lived_in.chmod(0o777)

    result = cli("doctor")

    assert result.code == 1
    assert f"chmod 700 {lived_in}" in result.out


def test_ctrl_c_is_130(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    script = "import sys, time, loractl.cli.context as c; c.load_settings = lambda *_: time.sleep(30); "
    script += "from loractl.cli import main; sys.argv = ['loractl', 'list']; print('up', flush=True); sys.exit(main())"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=clean_environment(tmp_path / "home"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    time.sleep(1)

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)

    assert process.returncode == 130
    assert "Traceback" not in err


def test_broken_pipe_is_quiet_and_keeps_the_exit_code(lived_in):
    reader, writer = os.pipe()
    os.close(reader)

    done = subprocess.run(
        [*LORACTL, "list"],
        env=clean_environment(lived_in),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writer)

    assert (done.returncode, done.stderr) == (0, "")


def test_full_stdout_is_one_clear_line(lived_in):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*LORACTL, "list"],
            env=clean_environment(lived_in),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )

    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_home_that_is_a_file_is_one_clear_line(tmp_path):
    home = tmp_path / "home"
    home.write_text("")

    result = run_process(["list"], clean_environment(home))

    assert result.code == 1
    assert result.err.startswith(f"error: cannot use {home}")
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "os.disk_full"), (errno.EACCES, "os.denied"), (errno.EROFS, "os.denied"), (errno.EIO, "os.failed")],
)
def test_operating_system_errors_are_told(number, code):
    failure = failure_of(OSError(number, os.strerror(number), "/some/file"), {}, None)

    assert (failure.exit_code, failure.code) == (ExitCode.FAILED, code)
    assert failure.message.startswith("/some/file: ")


def test_every_family_has_its_exit_code():
    families = {UsageError: 2, DeniedError: 3, NotFoundError: 4, ConflictError: 5, RegistryError: 1}

    assert {kind: failure_of(kind("x"), {}, None).exit_code for kind in families} == families


def test_every_code_that_is_mapped_exists():
    codes = {kind.code for kind in vars(serve_errors).values() if isinstance(kind, type) and hasattr(kind, "code")}

    assert {code for code in errors._CODES if code.startswith("serve.")} <= codes


def _raiser(error: Exception):
    def fail(*_args, **_kwargs):
        raise error

    return fail
