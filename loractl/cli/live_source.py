"""Asking a server of this home what it does right now."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from loractl.cli.errors import CliError, CliUsageError
from loractl.serving.operator_key import (
    OperatorKeyError,
    OperatorKeyMissingError,
    operator_key_path,
    read_operator_key,
)
from loractl.serving.state import RunState, running
from loractl.settings import OPERATOR_KEY_VARIABLE

STATE_PATH = "/loractl/v1/state"
_TIMEOUT_S = 5.0
_LONGEST_ANSWER = 64 * 2**20
_LONGEST_KEY = 512


class NoServerError(CliError):
    """No `loractl serve` runs on the home, or none of that base. Exit code 4."""

    code = "top.no_server"

    def __init__(self, home: Path, base: str | None) -> None:
        what = f"no server of base {base}" if base else "no server"
        super().__init__(f"{what} runs on {home}", hint=f"start one: loractl serve {base or 'BASE'}")


class SeveralServersError(CliUsageError):
    """More than one server runs on the home. Exit code 2."""

    code = "top.several_servers"

    def __init__(self, bases: tuple[str, ...]) -> None:
        super().__init__(f"servers of {', '.join(bases)} run here", hint=f"name one of them: loractl top {bases[0]}")


class ServerEndedError(CliError):
    """The server that was watched has ended. Exit code 1."""

    code = "top.server_ended"

    def __init__(self) -> None:
        super().__init__("the server has ended", hint="start it again: loractl serve BASE")


class NoAnswerError(CliError):
    """The server does not answer, or not as it should. Exit code 1."""

    code = "top.no_answer"

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"the server at {url} {why}", hint="see whether it still runs: loractl doctor")


class KeyRefusedError(CliError):
    """The server tells its state to its operator alone, and does not take this key for the operator's. Exit code 3."""

    code = "top.key_refused"

    def __init__(self, url: str, *, has_key: bool) -> None:
        what = "does not accept the operator's key" if has_key else "wants the operator's key"
        super().__init__(
            f"the server at {url} {what}", hint=f"ask as the account that serves, or set {OPERATOR_KEY_VARIABLE}"
        )


class KeyFileError(CliError):
    """The file with the operator's key is not one to be trusted. Exit code 3."""

    code = "top.key_file"

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"refusing the operator's key in {path}: {why}", hint=f"restart the server, or: chmod 600 {path}"
        )


@dataclass(frozen=True, slots=True)
class LiveSource:
    """The server of a home.

    Attributes:
        base: Which one, where there may be several.
    """

    home: Path
    base: str | None
    environ: Mapping[str, str]

    def ask(self) -> bytes:
        """Return the document of the live state, as it was answered.

        The server is looked up each time, so that one that was restarted on another port is found again.

        Raises:
            NoServerError: None runs.
            SeveralServersError: Several run, and `base` names none.
            NoAnswerError: It cannot be reached, or answers with an error.
            KeyRefusedError: It wants another key, or one at all.
            KeyFileError: The key lies where others can read it.
        """
        server = self._find()
        key = self._key()
        status, body = _get(server.url, key)
        if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            raise KeyRefusedError(server.url, has_key=key is not None)
        if status != http.client.OK:
            raise NoAnswerError(server.url, f"answers {status} to {STATE_PATH}")
        return body

    def _find(self) -> RunState:
        found = running(self.home, base=self.base)
        if not found:
            raise NoServerError(self.home, self.base)
        first, *others = found
        if others:
            raise SeveralServersError(tuple(state.base for state in found))
        return first

    def _key(self) -> str | None:
        key = self.environ.get(OPERATOR_KEY_VARIABLE, "")
        if key:
            if not _is_key(key):
                raise CliUsageError(
                    f"{OPERATOR_KEY_VARIABLE} is no key: it holds spaces or letters beyond ASCII",
                    hint=f"unset {OPERATOR_KEY_VARIABLE}, or set it to the operator's key",
                )
            return key
        try:
            key = read_operator_key(self.home)
        except OperatorKeyMissingError:
            return None
        except OperatorKeyError as error:
            raise KeyFileError(operator_key_path(self.home), str(error)) from error
        if not _is_key(key):
            raise KeyFileError(operator_key_path(self.home), "it holds no key")
        return key


def _is_key(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_KEY and all("!" <= letter <= "~" for letter in text)


def _get(url: str, key: str | None) -> tuple[int, bytes]:
    """Ask without a proxy and without following anything: the key is for this server alone."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", STATE_PATH, headers={"Authorization": f"Bearer {key}"} if key else {})
        answer = connection.getresponse()
        body = answer.read(_LONGEST_ANSWER + 1)
    except TimeoutError as error:
        raise NoAnswerError(url, f"does not answer within {_TIMEOUT_S:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise NoAnswerError(url, f"does not answer: {error}") from error
    finally:
        connection.close()
    if len(body) > _LONGEST_ANSWER:
        raise NoAnswerError(url, "answers without end")
    return answer.status, body
