"""The page at ``/ui``, in a real Chromium: what it shows, what it asks for, and what it refuses to do."""

import json
from dataclasses import asdict

import pytest
from support.live import BOT, POET, STATE_PATH, LiveServer, LiveState

from loractl.observability.live_state import AdapterFacts, HealthFacts, LimitStanding, TenantFacts
from loractl.observability.rates import window
from loractl.observability.series import LabelSet
from loractl.observability.state_document import parse_state
from loractl.web.assets import PATHS

HOSTILE = (
    "<img src=/pwned onerror=window.pwned=1>",
    "<script>window.pwned=1</script>",
    "\u202egnp.txt\u2066",
    '"><svg onload=window.pwned=1>',
    "__proto__",
)
KEY_FORM = "Operator\u2019s key"
NOTHING = "\u2013"
NAMES = "[...document.querySelectorAll('#adapters tbody th')].map(cell => cell.innerText)"


def open_page(page, server):
    page.goto(f"{server.url}/ui")
    page.wait_text("#adapters tbody", "support-bot@3")


def cells_of(page, table, name):
    """Return the text of each column of one row, by the column's title."""
    return page.evaluate(f"""(() => {{
        const table = document.getElementById({json.dumps(table)});
        const titles = [...table.tHead.rows[0].cells].map(cell => cell.innerText);
        const row = [...table.tBodies[0].rows].find(row => row.cells[0].innerText === {json.dumps(name)});
        return Object.fromEntries([...row.cells].map((cell, i) => [titles[i].replace(/ [↑↓]/, ""), cell.innerText]));
    }})()""")


def test_page_loads_without_a_complaint_and_asks_nobody_else(page, server):
    open_page(page, server)
    server.wait_asked(STATE_PATH, 2)

    assert page.complaints == []
    assert {url.removeprefix(server.url) for url in page.requested} == {*PATHS, STATE_PATH}


def test_page_shows_adapters_and_tenants_that_nobody_asked_for_yet(page, server):
    open_page(page, server)

    assert page.evaluate(NAMES) == ["poet@1", "support-bot@3", "tiny-moe"]
    assert cells_of(page, "adapters", "support-bot@3")["Stage"] == "live"
    assert cells_of(page, "adapters", "poet@1")["Slot"] == "not in a slot"
    assert cells_of(page, "tenants", "zeta")["Left of its limits"] == "no limits"
    assert cells_of(page, "tenants", "acme")["Left of its limits"].split("\n") == ["tokens / min", "400 of 1000 left"]
    assert (page.text("#base"), page.text("#health")) == ("tiny-moe", "healthy")


@pytest.mark.parametrize("remaining", [0, -3])
def test_page_says_that_a_limit_is_used_up(page, server, remaining):
    standing = [LimitStanding("tokens_per_day", 500, remaining, 60.0), LimitStanding("concurrent", 4, 4, 0.0)]
    server.state.tenants = [TenantFacts("acme", 1.0, {"tokens_per_day": 500, "concurrent": 4}, standing)]

    open_page(page, server)

    assert [
        text.split("\n")
        for text in page.evaluate("[...document.querySelectorAll('.quota')].map(quota => quota.innerText)")
    ] == [["tokens / day", "0 of 500 left"], ["at once", "4 of 4 left"]]
    assert page.evaluate("document.querySelectorAll('.quota.is-spent').length") == 1


def test_page_follows_the_traffic(page, server):
    open_page(page, server)
    first = "document.querySelector('#adapters tbody tr')"
    page.evaluate(f"window.first = {first}; window.first.cells[0].tabIndex = 0; window.first.cells[0].focus()")

    with server.lock:
        server.state.serve(BOT, times=8, first_s=1.0)
    page.wait_for(f"{first}.innerText", lambda text: text.startswith("support-bot@3"))

    row = cells_of(page, "adapters", "support-bot@3")
    assert row["Tokens / s"] not in ("0", NOTHING)
    assert (row["Engine"], row["First token p50"]) == ("100 %", "875 ms")
    assert page.evaluate("window.first.isConnected && document.activeElement === window.first.cells[0]")
    assert page.evaluate(f"{first}.querySelector('.spark .line').getAttribute('d').length") > 0
    assert page.text("#tiles article:first-child").split("\n")[-1] == "8 since the start"


def test_page_says_what_is_wrong_with_the_server(page, server):
    server.state.health = HealthFacts("degraded", "the engine cannot answer")

    page.goto(f"{server.url}/ui")

    page.wait_text("#health", "degraded: the engine cannot answer")


def test_page_asks_for_the_key_and_works_with_it(page, locked):
    page.goto(f"{locked.url}/ui")
    page.wait_text("#unlock", KEY_FORM)
    assert page.evaluate("document.activeElement.id") == "key"

    page.type("right-key")
    page.press("Enter")
    page.wait_text("#adapters tbody", "support-bot@3")

    assert page.text("#unlock") == ""
    assert [each.authorization for each in locked.asked(STATE_PATH)] == [None, "Bearer right-key"]
    assert not [url for url in page.requested if "right-key" in url]


def test_key_stays_in_the_tab_until_it_is_forgotten(browser, page, locked):
    page.goto(f"{locked.url}/ui")
    page.wait_text("#unlock", KEY_FORM)
    page.type("right-key")
    page.press("Enter")
    page.wait_text("#adapters tbody", "support-bot@3")

    assert page.evaluate("[localStorage.length, document.cookie, document.getElementById('key').value]") == [0, "", ""]
    page.goto(f"{locked.url}/ui")
    page.wait_text("#adapters tbody", "support-bot@3")
    other = browser.open()
    other.goto(f"{locked.url}/ui")
    other.wait_text("#unlock", KEY_FORM)

    page.evaluate("document.getElementById('forget').click()")
    page.wait_text("#unlock", KEY_FORM)
    assert page.evaluate("sessionStorage.length") == 0


@pytest.mark.parametrize("wrong", ["wrong-key", "no spaces", "clé"])
def test_wrong_key_is_refused_and_asked_for_again(page, locked, wrong):
    page.goto(f"{locked.url}/ui")
    page.wait_text("#unlock", KEY_FORM)

    page.type(wrong)
    page.press("Enter")
    page.wait_for("document.getElementById('notice').innerText", lambda text: "key" in text.lower())

    assert page.evaluate("[sessionStorage.length, document.getElementById('key').value]") == [0, ""]
    page.type("right-key")
    page.press("Enter")
    page.wait_text("#adapters tbody", "support-bot@3")


def test_hostile_names_are_shown_as_text(page, server):
    server.state.adapters = [*server.state.adapters, *(AdapterFacts(name, 1, "<i>live</i>") for name in HOSTILE)]
    server.state.tenants = [*server.state.tenants, *(TenantFacts(name) for name in HOSTILE)]
    server.state.health = HealthFacts("ok<b>", HOSTILE[0])
    server.state.metrics.begin(LabelSet(HOSTILE[0], "2", HOSTILE[1]))

    open_page(page, server)
    server.wait_asked(STATE_PATH, 2)

    shown = page.evaluate("[...document.querySelectorAll('.name')].map(name => name.textContent)")
    assert {f"{name}@1" for name in HOSTILE} | set(HOSTILE) <= set(shown)
    assert page.evaluate("document.querySelectorAll('main img, main script, main i, main b').length") == 0
    assert page.evaluate("window.pwned") is None
    assert page.complaints == []
    assert {url.removeprefix(server.url) for url in page.requested} == {*PATHS, STATE_PATH}


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param("document.body.innerHTML = '<b>x</b>'", id="markup-from-a-string"),
        pytest.param("eval('window.pwned = 1')", id="code-from-a-string"),
        pytest.param("const made = document.createElement('script'); made.text = 'window.pwned = 1'", id="script"),
    ],
)
def test_policy_refuses_to_turn_strings_into_anything(page, server, attempt):
    open_page(page, server)

    # A function of the page's own: what the debugger evaluates itself is exempt from the policy.
    page.evaluate(
        f"new Promise(done => setTimeout(() => {{ try {{ {attempt}; document.body.append(made) }} "
        "catch (error) { window.caught = error.name } done() }))"
    )

    assert page.evaluate("window.caught") in ("TypeError", "EvalError")
    assert page.evaluate("window.pwned") is None


def test_policy_refuses_every_other_server(page, server):
    other = LiveServer()
    try:
        open_page(page, server)

        caught = page.evaluate(f"fetch('{other.url}/ui').then(() => 'let through', error => error.name)")

        assert (caught, other.requests) == ("TypeError", [])
    finally:
        other.close()


def test_page_survives_a_server_that_goes_and_comes_back(page, server):
    open_page(page, server)

    server.status = 503
    page.wait_text("#notice", "cannot be reached")
    server.status, server.state = 200, LiveState()

    page.wait_for("document.getElementById('notice').innerText", lambda text: text == "")
    assert "support-bot@3" in page.evaluate(NAMES)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"format": 2}', b'{"format": 1}'])
def test_page_says_that_an_answer_is_no_state(page, server, body):
    server.body = body

    page.goto(f"{server.url}/ui")

    page.wait_text("#notice", "cannot be reached")


def test_keyboard_reaches_everything(page, server):
    open_page(page, server)
    reached = []
    for _ in range(8):
        page.press("Tab")
        reached.append(page.evaluate("document.activeElement.innerText || document.activeElement.id"))

    assert reached[:3] == ["Skip to the adapters", "Pause", "filter"]
    assert [text.rstrip(" ↑↓") for text in reached[4:7]] == ["Adapter", "Stage", "Slot"]


def test_columns_sort_by_the_keyboard(page, server):
    open_page(page, server)
    page.evaluate("document.querySelector('#adapters thead button').focus()")

    page.press("Enter")
    assert page.evaluate("document.querySelector('#adapters thead th').ariaSort") == "ascending"
    page.press("Enter")

    assert page.evaluate("document.querySelector('#adapters thead th').ariaSort") == "descending"
    assert page.evaluate(NAMES) == ["tiny-moe", "support-bot@3", "poet@1"]


def test_pause_stops_asking(page, server):
    open_page(page, server)
    page.evaluate("document.getElementById('pause').focus()")
    page.press(" ")
    page.wait_for("document.getElementById('pause').ariaPressed", lambda pressed: pressed == "true")
    asked = len(server.asked(STATE_PATH))

    page.evaluate("new Promise(done => setTimeout(done, 2500))")
    assert len(server.asked(STATE_PATH)) == asked
    page.press(" ")

    server.wait_asked(STATE_PATH, asked + 2)


def test_filter_narrows_the_adapters(page, server):
    open_page(page, server)
    page.evaluate("document.getElementById('filter').focus()")

    page.type("POET")
    assert page.evaluate(NAMES) == ["poet@1"]
    page.type("x")

    assert page.text("#adapters ~ .empty") == "No adapter matches the filter."


def test_many_adapters_stay_a_page(page, server):
    server.state.adapters = [AdapterFacts("support-bot", number, "approved") for number in range(1, 501)]

    open_page(page, server)

    assert page.evaluate(f"{NAMES}.length") == 200
    assert page.text("#adapters-more") == "301 more; narrow them down with the filter."


def test_screen_reader_finds_names_for_everything(page, server):
    open_page(page, server)

    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = {(node["role"]["value"], node["name"]["value"]) for node in nodes if "name" in node and "role" in node}

    assert {("table", "Adapters"), ("table", "Tenants"), ("searchbox", "Filter"), ("button", "Pause")} <= named
    assert {("heading", "loractl"), ("heading", "Adapters"), ("rowheader", "support-bot@3")} <= named
    assert not [
        role for role, name in named if role in ("button", "searchbox", "table", "link", "textbox") and not name
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_it_is_on(page, server, scheme):
    page.call("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    open_page(page, server)

    contrasts = page.evaluate("""(() => {
        const parse = (colour) => (colour.match(/[0-9.]+/g) ?? []).map(Number);
        const light = (colour) => parse(colour).slice(0, 3).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92
            : ((c / 255 + 0.055) / 1.055) ** 2.4)).reduce((all, c, i) => all + c * [0.2126, 0.7152, 0.0722][i], 0);
        const behind = (node) => {
            for (; node; node = node.parentElement) {
                const colour = getComputedStyle(node).backgroundColor;
                if (parse(colour)[3] !== 0) return colour;
            }
            return "rgb(255, 255, 255)";
        };
        return [...document.querySelectorAll("body *:not(svg *)")]
            .filter((node) => node.checkVisibility() && [...node.childNodes].some((child) => child.nodeType === 3))
            .map((node) => {
                const [a, b] = [light(getComputedStyle(node).color), light(behind(node))].sort((x, y) => y - x);
                return [(a + 0.05) / (b + 0.05), node.innerText];
            });
    })()""")

    assert len(contrasts) > 30
    assert [pair for pair in contrasts if pair[0] < 4.5] == []


def test_page_and_top_agree_on_every_number(page, server):
    state = LiveState()
    state.serve(POET, times=3, first_s=0.4)
    before = state.document()
    for number in range(20):
        state.serve(BOT, first_s=0.02 * number)
        state.serve(POET, times=2, first_s=70.0)
    after = state.document()
    page.goto(f"{server.url}/ui")
    page.wait_text("#adapters tbody", "support-bot@3")

    theirs = page.evaluate(
        "import('/ui/rates.js').then(rates => {"
        f" const found = rates.windowOf({json.dumps(before)}, {json.dumps(after)});"
        " const [adapters, tenants] = [found.adapters, found.tenants].map((rows) => Object.fromEntries(rows));"
        " return { ...found, adapters, tenants };"
        "})"
    )

    ours = window(*(parse_state(json.dumps(each).encode()) for each in (before, after)))
    assert theirs["elapsed"] == pytest.approx(ours.elapsed_s)
    pairs = [(theirs["total"], ours.total), (theirs["tenants"]["acme@"], ours.tenants["acme"])]
    for name, version in (("support-bot", 3), ("poet", 1)):
        pairs.append((theirs["adapters"][f"{name}@{version}"], ours.adapters[name, version]))
    for found, wanted in pairs:
        assert_same(found, asdict(wanted))


WORDS = {
    "requests": "requests_per_s",
    "inputTokens": "input_tokens_per_s",
    "outputTokens": "output_tokens_per_s",
    "errorShare": "error_share",
    "refusedShare": "refused_share",
    "busyShare": "busy_share",
}
LATENCIES = {"ttft": "ttft", "interToken": "inter_token", "total": "total", "queue": "queue"}


def assert_same(theirs, ours):
    assert theirs.keys() == WORDS.keys() | LATENCIES.keys()
    for word, name in WORDS.items():
        assert theirs[word] == (None if ours[name] is None else pytest.approx(ours[name]))
    for word, name in LATENCIES.items():
        for share in ("p50", "p99"):
            wanted, found = ours[name][share], theirs[word][share]
            assert (found is None) == (wanted is None)
            if wanted:
                assert found["seconds"] == pytest.approx(wanted["seconds"])
                assert found["isBeyond"] == wanted["is_beyond"]
