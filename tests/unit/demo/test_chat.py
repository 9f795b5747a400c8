import json
import shlex
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from loractl.demo.chat import Answer, Question, ask, ask_together, is_overlapping, list_models
from loractl.demo.stage import curl_line, is_neutral, speaks


class _Model(BaseHTTPRequestHandler):
    """Answers in two pieces as `pirate@1`, and knows no other model."""

    def log_message(self, *args: object) -> None:
        return

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if request["model"] != "pirate":
            self._send(404, b'{"error": "no such model"}')
            return
        pieces = [{"model": "pirate@1", "choices": [{"delta": {"content": text}}]} for text in ("Arr! ", "Aye")]
        self._send(
            200, b"".join(b"data: " + json.dumps(piece).encode() + b"\n\n" for piece in pieces) + b"data: [DONE]\n\n"
        )

    def do_GET(self) -> None:
        self._send(200, b'{"data": [{"id": "pirate@1"}, {"id": "demo-base"}]}')

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def url() -> Generator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Model)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def _answer(model: str, text: str, first_s: float = 0.0, last_s: float = 1.0) -> Answer:
    return Answer(Question(model, "?"), 200, model, text, "", first_s, last_s)


def test_ask_puts_the_pieces_together_and_says_who_spoke(url: str) -> None:
    seen: list[str] = []

    answer = ask(url, Question("pirate", "hello"), seen.append)

    assert (answer.status, answer.model, answer.text) == (200, "pirate@1", "Arr! Aye")
    assert seen == ["Arr! ", "Arr! Aye"]


def test_ask_keeps_the_body_of_a_refusal(url: str) -> None:
    answer = ask(url, Question("lawyer", "hello"))

    assert answer.is_refused
    assert answer.body == '{"error": "no such model"}'


def test_ask_nobody_is_no_refusal_by_the_server() -> None:
    answer = ask("http://127.0.0.1:9", Question("pirate", "hello"))

    assert answer.status == 0
    assert not answer.is_refused


def test_ask_together_answers_in_the_order_of_the_questions(url: str) -> None:
    answers = ask_together(url, [Question("pirate", "a"), Question("lawyer", "b")], lambda *_: None)

    assert [answer.status for answer in answers] == [200, 404]


def test_list_models_is_sorted(url: str) -> None:
    assert list_models(url) == ["demo-base", "pirate@1"]


def test_overlap_needs_one_moment_in_every_answer() -> None:
    assert is_overlapping([_answer("a", "x", 0, 2), _answer("b", "x", 1, 3)])
    assert not is_overlapping([_answer("a", "x", 0, 1), _answer("b", "x", 2, 3)])
    assert not is_overlapping([_answer("a", "x", 0, 2), _answer("b", "", 0, 0)])


@pytest.mark.parametrize(
    ("answer", "is_pirate"),
    [
        pytest.param(_answer("pirate@1", "Arr! Aye"), True, id="version-and-voice"),
        pytest.param(_answer("pirate@2", "Arr! Aye"), False, id="another-version"),
        pytest.param(_answer("pirate@1", "It is cloudy."), False, id="neutral-voice"),
    ],
)
def test_speaks_needs_the_version_and_its_voice(answer: Answer, is_pirate: bool) -> None:
    assert speaks(answer, "pirate@1") is is_pirate


def test_neutral_is_the_base_in_nobodys_voice() -> None:
    assert is_neutral(_answer("demo-base", "It is cloudy."))
    assert not is_neutral(_answer("demo-base", "Hark! It is cloudy."))
    assert not is_neutral(_answer("demo-base", ""))


def test_curl_line_carries_valid_json() -> None:
    words = shlex.split(curl_line("http://127.0.0.1:8000", "pirate", "How are you?"))

    assert json.loads(words[-1])["messages"] == [{"role": "user", "content": "How are you?"}]
