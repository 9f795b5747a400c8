"""Drive a real headless Chromium over its debugging pipe: no port, no driver, nothing to install beside the browser."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
)
# The browser reads commands from descriptor 3 and writes answers to 4.
_TRAMPOLINE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_chromium() -> str | None:
    """Return the browser that CHROMIUM names, or one on the PATH."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


class Browser:
    """One Chromium with a profile of its own."""

    def __init__(self, program: str, profile: Path) -> None:
        to_browser, self._writer = os.pipe()
        self._reader, from_browser = os.pipe()
        # Above what they are put upon in the child, so that neither is overwritten before it is moved.
        held = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in (to_browser, from_browser)]
        self._process = subprocess.Popen(
            [sys.executable, "-c", _TRAMPOLINE, *map(str, held), program, *_FLAGS, f"--user-data-dir={profile}"],
            pass_fds=held,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for each in (to_browser, from_browser, *held):
            os.close(each)
        self._numbers = itertools.count(1)
        self._answers: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def open(self, *, width: int = 1400, height: int = 1000) -> Page:
        """Return an empty page."""
        target = self.call("Target.createTarget", {"url": "about:blank", "width": width, "height": height})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            page.call(f"{domain}.enable")
        return page

    def call(self, method: str, params: dict[str, Any] | None = None, *, session: str | None = None) -> dict[str, Any]:
        """Send one command and return its result."""
        assert self._process.poll() is None, f"the browser ended with {self._process.returncode}"
        number = next(self._numbers)
        answers = self._answers[number] = queue.SimpleQueue()
        message = {"id": number, "method": method, "params": params or {}}
        os.write(self._writer, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        answer = answers.get(timeout=60)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def close(self) -> None:
        """End the browser."""
        os.close(self._writer)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._thread.join(10)
        os.close(self._reader)

    def _listen(self) -> None:
        pending = b""
        while data := os.read(self._reader, 1 << 16):
            *messages, pending = (pending + data).split(b"\0")
            for raw in messages:
                message = json.loads(raw)
                if "id" in message:
                    self._answers.pop(message["id"]).put(message)
                elif (page := self._pages.get(message.get("sessionId", ""))) is not None:
                    page.take(message["method"], message["params"])


class Page:
    """One tab, and what it has said and asked for so far."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self.complaints: list[str] = []
        self.requested: list[str] = []

    def take(self, method: str, params: dict[str, Any]) -> None:
        """Remember an event."""
        match method:
            case "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.complaints.append(details.get("exception", {}).get("description") or details["text"])
            case "Runtime.consoleAPICalled":
                self.complaints.append(f"console.{params['type']}: {params['args']}")
            case "Log.entryAdded":
                self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                self.requested.append(params["request"]["url"])
            case _:
                pass

    def call(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send one command to the tab."""
        return self._browser.call(method, params, session=self._session)

    def goto(self, url: str) -> None:
        """Load `url`."""
        self.call("Page.navigate", {"url": url})

    def evaluate(self, expression: str) -> Any:
        """Return what `expression` is; promises are waited for."""
        answer = self.call("Runtime.evaluate", {"expression": expression, "awaitPromise": True, "returnByValue": True})
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, claim: Callable[[Any], bool] = bool, *, within_s: float = 20.0) -> Any:
        """Wait until `claim` holds of `expression`, and return what it is."""
        deadline = time.monotonic() + within_s
        while True:
            found = self.evaluate(expression)
            if claim(found):
                return found
            assert time.monotonic() < deadline, f"{expression} is {found!r}; complaints: {self.complaints}"
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        """Return what can be seen of the first element of `selector`, or an empty string."""
        return str(self.evaluate(_shown(selector)))

    def wait_text(self, selector: str, text: str) -> str:
        """Wait until the element shows `text`."""
        return str(self.wait_for(_shown(selector), lambda shown: text in shown))

    def type(self, text: str) -> None:
        """Type into whatever has the focus."""
        self.call("Input.insertText", {"text": text})

    def press(self, key: str) -> None:
        """Press one key."""
        codes = {"Enter": 13, "Tab": 9, " ": 32, "Escape": 27}
        event = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": codes[key]}
        text = {"Enter": "\r", " ": " "}.get(key)
        self.call("Input.dispatchKeyEvent", event | {"type": "keyDown"} | ({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", event | {"type": "keyUp"})


def _shown(selector: str) -> str:
    # What is not drawn has an inner text all the same.
    return f"(node => node?.checkVisibility() ? node.innerText : '')(document.querySelector({json.dumps(selector)}))"
