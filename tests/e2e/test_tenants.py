"""Two tenants on a real vLLM: keys, quotas, caches that know nothing of each other, and sums that are the engine's own.

The last test in this file kills the server.
"""

from __future__ import annotations

import itertools
import re
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
from support.chromium import Browser
from support.cli import clean_environment, run_process
from support.engine import build_base
from support.registry import BaseShape, write_adapter
from support.serving import ServeBody, eventually

from loractl.observability.state_document import parse_state
from loractl.quotas import CounterFile
from loractl.serving.operator_key import read_operator_key
from loractl.web.assets import PATHS as PAGE_PATHS
from loractl_registry import Registry, Stage, parse_ref
from loractl_registry.tenancy import Limits

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

BASE = "tiny"
SHAPE = BaseShape(hidden=128, layers=2, heads=4, kv_heads=2, head_dim=32, experts=8, expert_hidden=96)
CHAT = [{"role": "user", "content": "hello there"}]
ADMIN = (
    "/v1/load_lora_adapter",
    "/reset_prefix_cache",
    "/tokenize",
    "/version",
    "/start_profile",
    "/docs",
    "/v1/score",
)
_numbers = itertools.count()


@dataclass(frozen=True)
class World:
    """A server with the tenants acme, other and small, and the operator's key."""

    home: Path
    server: ServeBody
    url: str
    keys: dict[str, str]

    def client(self, tenant: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.keys[tenant], max_retries=0, timeout=120)

    def get(self, path: str, tenant: str | None = "operator") -> httpx.Response:
        headers = {} if tenant is None else {"authorization": f"Bearer {self.keys[tenant]}"}
        return httpx.get(f"{self.url}{path}", headers=headers, timeout=60)

    def total(self, name: str) -> float:
        """Add every sample of `name` in a scrape up."""
        found = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", self.get("/metrics").text, re.MULTILINE)
        assert found, name
        return sum(map(float, found))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    root = tmp_path_factory.mktemp("tenants")
    home = root / "home"
    build_base("qwen3moe", root / BASE)
    with Registry.open(home) as registry:
        registry.add_base(BASE, str(root / BASE), actor="tester")
        for seed, name in enumerate(("open", "secret")):
            folder = write_adapter(root / name, SHAPE, rank=4, seed=seed, base=BASE, on_experts=False)
            ref = registry.add(name, str(folder), actor="tester").version.ref
            registry.promote(parse_ref(str(ref)), actor="tester", to=Stage.LIVE)
        tenancy = registry.tenancy
        tenancy.add("acme", actor="tester", adapters=["*"])
        tenancy.add("other", actor="tester", adapters=["open", BASE])
        tenancy.add("small", actor="tester", adapters=["open"], limits=Limits(tokens_per_day=60, max_output=20))
        keys = {name: tenancy.create_key(name, actor="tester")[1].reveal() for name in ("acme", "other", "small")}
    server = ServeBody(home, BASE)
    try:
        url = server.wait_ready()["url"]
        yield World(home, server, url, {**keys, "operator": read_operator_key(home)})
    finally:
        server.end()


def fresh(words: int) -> str:
    """Return a prompt that nobody has sent."""
    return " ".join(f"word{next(_numbers)}" for _ in range(words))


def test_key_opens_what_its_tenant_may_use_and_hides_the_rest(world: World) -> None:
    assert [one.id for one in world.client("other").models.list()] == [BASE, "open", "open@1"]
    assert world.client("acme").completions.create(model="secret", prompt="hi", max_tokens=2).model == "secret@1"
    answers = []
    for model in ("secret", "secret@1", "no-such-model"):
        with pytest.raises(openai.NotFoundError) as refused:
            world.client("other").completions.create(model=model, prompt="hi", max_tokens=2)
        answers.append(refused.value.response.content)
    assert len(set(answers)) == 1


def test_no_route_of_the_engine_is_reached_with_or_without_a_key(world: World) -> None:
    for path, tenant in itertools.product(ADMIN, (None, "acme", "operator")):
        assert world.get(path, tenant).status_code == 404
    for path in ("/metrics", "/loractl/v1/state", "/v1/models"):
        assert world.get(path, None).status_code == 401
    assert [world.get(path, "acme").status_code for path in ("/metrics", "/loractl/v1/state")] == [401, 401]


def test_head_without_an_end_is_cut_off_by_the_real_server(world: World) -> None:
    host, _, port = world.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nx-endless: ")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall(b"a" * 2**27)
    assert world.get("/health", None).json() == {"status": "ok"}


def test_sums_over_tenants_are_the_engines_own(world: World) -> None:
    acme, other = world.client("acme"), world.client("other")
    names = ("prompt_tokens", "generation_tokens")
    ours = ("loractl_input_tokens_total", "loractl_output_tokens_total")
    before = [world.total(f"vllm:{name}_total") for name in names], [world.total(name) for name in ours]

    other.completions.create(model="open", prompt=fresh(5), max_tokens=7, extra_body={"ignore_eos": True})
    acme.completions.create(model="secret", prompt=[fresh(3), fresh(4)], max_tokens=5)
    acme.chat.completions.create(model=BASE, messages=CHAT, max_completion_tokens=6)  # type: ignore[arg-type]
    list(other.chat.completions.create(model="open", messages=CHAT, stream=True, max_tokens=9))  # type: ignore[call-overload]
    acme.responses.create(model=BASE, input="hello", max_output_tokens=8, store=False)
    list(acme.responses.create(model=BASE, input="hello again", max_output_tokens=8, store=False, stream=True))
    with acme.completions.create(
        model="open", prompt=fresh(9), max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
    ) as left:
        for _ in itertools.islice(left, 5):
            pass
    assert eventually(lambda: world.total("loractl_requests_in_flight") == 0)

    after = [world.total(f"vllm:{name}_total") for name in names], [world.total(name) for name in ours]
    engine = [now - then for now, then in zip(after[0], before[0], strict=True)]
    gateway = [now - then for now, then in zip(after[1], before[1], strict=True)]
    assert gateway[0] == engine[0]
    # Of what was cut off, vLLM counts the tokens of one step that it had no time to tell.
    assert 0 <= engine[1] - gateway[1] <= 2


def test_prefix_of_one_tenant_is_not_in_the_cache_of_another(world: World) -> None:
    def hits_of(tenant: str, prompt: str) -> float:
        before = world.total("vllm:prefix_cache_hits_total")
        world.client(tenant).completions.create(
            model="open", prompt=prompt, max_tokens=1, extra_body={"cache_salt": "mine"}
        )
        return world.total("vllm:prefix_cache_hits_total") - before

    secret = fresh(300)

    assert hits_of("acme", secret) == 0
    assert hits_of("other", secret) == 0
    assert hits_of("acme", secret) > 0
    assert hits_of("operator", secret) == 0


def test_budget_of_a_day_ends_in_a_429_that_the_client_is_told_not_to_retry(world: World) -> None:
    small = world.client("small")
    assert eventually(lambda: _is_refused(small), within_s=60)
    with pytest.raises(openai.RateLimitError) as refused:
        small.completions.create(model="open", prompt=fresh(2), max_tokens=8)

    headers = refused.value.response.headers
    assert refused.value.code == "insufficient_quota"
    assert headers["x-should-retry"] == "false"
    assert headers["x-ratelimit-limit-tokens-day"] == "60"


def _is_refused(client: openai.OpenAI) -> bool:
    try:
        client.completions.create(model="open", prompt=fresh(2), max_tokens=8)
    except openai.RateLimitError:
        return True
    return False


def test_context_of_a_tenant_is_counted_by_the_engines_tokenizer(world: World) -> None:
    with Registry.open(world.home) as registry:
        registry.tenancy.add("brief", actor="tester", adapters=["open"], limits=Limits(max_context=120))
        key = registry.tenancy.create_key("brief", actor="tester")[1].reveal()
    client = openai.OpenAI(base_url=f"{world.url}/v1", api_key=key, max_retries=0, timeout=120)
    assert eventually(
        lambda: httpx.get(f"{world.url}/v1/models", headers={"authorization": f"Bearer {key}"}).is_success
    )
    messages = [{"role": "user", "content": fresh(60)}]

    assert client.completions.create(model="open", prompt=fresh(8), max_tokens=4).usage is not None
    for ask in (
        lambda: client.completions.create(model="open", prompt=fresh(80), max_tokens=4),
        lambda: client.completions.create(model="open", prompt=[fresh(2), list(range(5, 130))], max_tokens=4),  # type: ignore[list-item]
        lambda: client.chat.completions.create(model="open", messages=messages, max_tokens=4),  # type: ignore[arg-type]
        lambda: client.responses.create(model="open", input=fresh(80), max_output_tokens=4),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            ask()
        assert refused.value.code == "context_length_exceeded"


def test_every_request_has_a_record_with_its_version_and_no_content(world: World) -> None:
    marker = fresh(4)
    answer = world.client("other").completions.with_raw_response.create(model="open", prompt=marker, max_tokens=3)
    request_id = answer.headers["x-loractl-request-id"]

    def rows() -> list[tuple[object, ...]]:
        with sqlite3.connect(f"file:{world.home / 'requests.db'}?mode=ro", uri=True) as database:
            found = database.execute("SELECT * FROM requests WHERE id = ?", (request_id,)).fetchall()
        database.close()
        return found

    assert eventually(lambda: bool(rows()))
    kept = " ".join(map(str, rows()[0]))
    assert "other" in kept
    assert marker not in kept
    assert marker.encode() not in b"".join(path.read_bytes() for path in world.home.glob("requests.db*"))


def test_top_tells_what_the_metrics_tell(world: World) -> None:
    world.client("acme").completions.create(model="open", prompt="hi", max_tokens=3, extra_body={"ignore_eos": True})

    told = run_process(["top", "--json", "--once"], clean_environment(world.home))

    assert (told.code, told.err) == (0, "")
    state = parse_state(told.out.encode())
    assert {row.ref for row in state.adapters} >= {BASE, "open@1", "secret@1"}
    assert {row.name for row in state.tenants} >= {"acme", "other", "small"}
    for found, name in ((state.totals.requests, "requests"), (state.totals.output_tokens, "output_tokens")):
        assert found == world.total(f"loractl_{name}_total") > 0


def test_page_opens_with_the_operators_key_alone(world: World, browser: Browser) -> None:
    page = browser.open()
    page.goto(f"{world.url}/ui")
    page.wait_text("#unlock", "key")
    page.type(world.keys["acme"])
    page.press("Enter")
    page.wait_text("#notice", "does not accept this key")

    page.type(world.keys["operator"])
    page.press("Enter")
    page.wait_text("#adapters tbody", "secret@1")

    page.wait_text("#tenants tbody", "tokens / day")
    assert {url.removeprefix(world.url) for url in page.requested} == {*PAGE_PATHS, "/loractl/v1/state"}


def test_killed_under_load_it_remembers_all_but_the_last_second(world: World) -> None:
    used: list[tuple[float, int]] = []
    is_over = threading.Event()

    def load() -> None:
        client = world.client("acme")
        while not is_over.is_set():
            try:
                usage = client.completions.create(model="open", prompt=fresh(3), max_tokens=4).usage
            except openai.APIError:
                return
            assert usage is not None
            used.append((time.monotonic(), usage.total_tokens))

    with Registry.open(world.home) as registry:
        registry.tenancy.change("acme", actor="tester", limits={"tokens_per_day": 10**6})
    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(4)
    begun = world.get("/loractl/v1/state").json()
    killed_at = time.monotonic()
    world.server.send(signal.SIGKILL)
    world.server.wait(10)
    is_over.set()
    for thread in threads:
        thread.join()

    file = CounterFile.open(world.home / f"quotas-{BASE}.db")
    saved = file.load()
    file.close()
    assert saved is not None
    remembered = next(one.day_tokens for one in saved.counters if (one.tenant, one.adapter) == ("acme", ""))
    answered = sum(tokens for at, tokens in used if at < killed_at - 1)
    assert begun["tenants"]
    assert answered > 0
    assert remembered >= answered
