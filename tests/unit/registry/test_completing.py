"""What Tab offers, at once and whatever the state of the home."""

import subprocess
import sys
import time

import pytest

from loractl_registry import Stage, Verb, completing
from loractl_registry._store.database import Database
from loractl_registry.clock import utc_now

NOW = "2026-01-31T09:00:00.000000Z"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    stages = list(Stage)
    with (
        Database.open(home / "registry.db", clock=utc_now, busy_timeout_s=1) as database,
        database.writing() as connection,
    ):
        connection.executemany(
            "INSERT INTO base (name, digest, path, source, size_bytes, file_count, manifest, signatures, config,"
            f" added_at, added_by) VALUES (?, 'sha256:' || printf('%064d', 0), '/b', '/b', 1, 1, '[]', '{{}}',"
            f" '{{}}', '{NOW}', 'ada')",
            [("tiny-moe",), ("tiny-dense",), ("large",)],
        )
        digests = [f"sha256:{number:064x}" for number in range(10_000)]
        connection.executemany(
            "INSERT INTO content (digest, size_bytes, manifest, facts) VALUES (?, 1, '[]', '{}')",
            [(digest,) for digest in digests],
        )
        connection.executemany(
            "INSERT INTO version (name, number, stage, digest, base_id, provenance, added_at, added_by)"
            f" VALUES (?, ?, ?, ?, 1, '{{}}', '{NOW}', 'ada')",
            [
                (
                    f"bot-{index // 10:04}",
                    index % 10 + 1,
                    stages[index % 10 % len(stages)] if index % 10 < 7 else "draft",
                    digest,
                )
                for index, digest in enumerate(digests)
            ],
        )
        connection.execute(
            "INSERT INTO audit (at, actor, action, subject, from_stage, to_stage, detail, digest)"
            f" VALUES ('{NOW}', 'ada', 'adapter.promote', 'bot-0000@3', 'approved', 'live', '{{}}', '{digests[0]}')"
        )
    return home


def test_names_begin_as_typed(home):
    assert completing.names(home, "bot-000") == [f"bot-{number:04}" for number in range(10)]
    assert completing.names(home, "absent") == []
    assert len(completing.names(home)) == completing.LIMIT


def test_bases_begin_as_typed(home):
    assert completing.bases(home, "tiny") == ["tiny-dense", "tiny-moe"]


def test_refs_come_newest_first_with_their_stage(home):
    found = completing.refs(home, "bot-0000@")

    assert [ref for ref, _ in found] == [f"bot-0000@{number}" for number in range(10, 0, -1)]
    assert dict(found)["bot-0000@4"] == "live"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("bot-0001@1", ["bot-0001@10", "bot-0001@1"]),
        ("bot-0001@x", []),
        ("bot-0001@99", []),
        ("bot-0001@l", []),
        ("bot-%@", []),
        ("'; DROP TABLE version; --", []),
        ("\udcff", []),
    ],
)
def test_refs_match_what_is_typed(home, typed, offered):
    assert [ref for ref, _ in completing.refs(home, typed)] == offered


@pytest.mark.parametrize(
    ("offered", "stages"),
    [
        (lambda home: completing.promotable(home, "bot-0000"), {"draft", "candidate", "approved", "retired"}),
        (lambda home: completing.promotable(home, "bot-0000", Stage.CANDIDATE), {"draft"}),
        (lambda home: completing.movable(home, Verb.REJECT, "bot-0000"), {"candidate"}),
        (lambda home: completing.movable(home, Verb.RETIRE, "bot-0000"), {"approved", "live"}),
        (lambda home: completing.movable(home, Verb.DEMOTE, "bot-0000"), {"candidate", "approved", "live"}),
        (lambda home: completing.movable(home, Verb.REVOKE, "bot-0000"), set(Stage) - {"revoked"}),
        (lambda home: completing.servable(home, "bot-0000"), {"approved", "live"}),
    ],
)
def test_verb_is_offered_only_what_it_can_move(home, offered, stages):
    assert {stage for _, stage in offered(home)} == stages


def test_rollback_is_offered_names_with_a_past(home):
    assert completing.rollbackable(home) == ["bot-0000"]


@pytest.mark.parametrize("content", [None, b"", b"no database at all" * 100])
def test_trouble_offers_nothing_and_creates_nothing(tmp_path, content):
    if content is not None:
        (tmp_path / "registry.db").write_bytes(content)
    before = sorted(tmp_path.iterdir())

    assert completing.names(tmp_path) == []
    assert completing.refs(tmp_path) == []
    assert completing.bases(tmp_path) == []
    assert sorted(tmp_path.iterdir()) == before


def test_unreadable_home_offers_nothing(tmp_path):
    assert completing.names(tmp_path / "absent" / "\0") == []


def test_completion_imports_the_standard_library_alone(home):
    script = (
        "import sys; before = set(sys.modules); from loractl_registry import completing\n"
        f"from pathlib import Path; completing.refs(Path({str(home)!r}), 'bot-00')\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(name for name in new if name not in sys.stdlib_module_names and not name.startswith('_')))"
    )

    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert out.strip() == "['loractl_registry']"


def test_ten_thousand_versions_are_no_wait(home):
    started = time.process_time()
    for _ in range(10):
        completing.refs(home, "bot-05")
        completing.names(home, "bot")

    assert time.process_time() - started < 2.0
