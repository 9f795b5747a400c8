"""The engine follows the registry: promotions, revocations, damage, refusals, and a registry that goes away."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time
from pathlib import Path

import pytest
from support.gateway import FAST, House, make_house, rank_limit, ref_of, running, until

from loractl.engine.fake import FakeEngine
from loractl.gateway import ReconcilerTimes
from loractl_registry import Stage

pytestmark = pytest.mark.anyio
ONE_SECOND = 1.0


def meaning(house: House, name: str) -> str | None:
    target = house.reconciler.table.resolve(name)
    return None if target is None else target.model


async def test_engine_holds_exactly_what_is_servable_when_the_server_is_up(tmp_path: Path) -> None:
    house = make_house(tmp_path, engine=FakeEngine(admit_s=0.02))
    for ref, stage in [("a@1", Stage.LIVE), ("a@2", Stage.APPROVED), ("a@3", Stage.CANDIDATE), ("b@1", Stage.DRAFT)]:
        house.registry.set(ref, stage)

    async with running(house):
        assert house.engine.admitted() == {ref_of("a@1"), ref_of("a@2")}
        assert house.engine.calls[0] == ("admit", ref_of("a@1"))


async def test_promotion_is_answered_within_a_second_and_never_with_nothing(tmp_path: Path) -> None:
    house = make_house(tmp_path, engine=FakeEngine(admit_s=0.1), times=ReconcilerTimes())
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        house.registry.set("poet@2", Stage.LIVE)
        began = time.monotonic()
        answered = []
        while answered[-1:] != ["poet@2"]:
            answer = await house.client.ask("poet", max_tokens=1)
            assert answer.status == 200
            answered.append(answer.json()["model"])
            await asyncio.sleep(0.005)

    assert time.monotonic() - began < ONE_SECOND
    assert set(answered) == {"poet@1", "poet@2"}


async def test_revocation_is_refused_within_a_second_while_a_large_adapter_is_loading(tmp_path: Path) -> None:
    house = make_house(tmp_path, times=ReconcilerTimes())
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        house.engine.admit_s = 30
        house.registry.set("giant@1", Stage.LIVE)
        await until(lambda: ("admit", ref_of("giant@1")) in house.engine.calls)
        house.registry.set("poet@1", Stage.REVOKED)
        took = await until(lambda: meaning(house, "poet") is None)
        await until(lambda: house.engine.loaded() == frozenset())

    assert took < ONE_SECOND


async def test_revocation_is_refused_within_a_second_while_a_large_adapter_is_hashed(tmp_path: Path) -> None:
    house = make_house(tmp_path, times=ReconcilerTimes())
    house.registry.set("poet@1", Stage.LIVE)
    hashing = asyncio.Event()
    loop = asyncio.get_running_loop()
    verify = house.registry.verify

    def slow(version):
        if version.ref.name == "giant":
            loop.call_soon_threadsafe(hashing.set)
            time.sleep(0.5)
        return verify(version)

    house.reconciler._verify = slow
    async with running(house):
        house.registry.set("giant@1", Stage.LIVE)
        await hashing.wait()
        house.registry.set("poet@1", Stage.REVOKED)
        took = await until(lambda: meaning(house, "poet") is None)
        assert meaning(house, "giant") is None
        await until(lambda: meaning(house, "giant") == "giant@1")

    assert took < 0.4


async def test_name_is_refused_before_the_engine_is_asked_to_let_go(tmp_path: Path) -> None:
    house = make_house(tmp_path, engine=FakeEngine(evict_s=0.2))
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        house.registry.set("poet@1", Stage.REVOKED)
        await until(lambda: ("evict", ref_of("poet@1")) in house.engine.calls)
        answer = await house.client.ask("poet@1")

        assert answer.status == 404
        assert ref_of("poet@1") in house.engine.loaded()
        await until(lambda: not house.engine.loaded())


async def test_revocation_ends_streams_in_the_middle(tmp_path: Path) -> None:
    house = make_house(tmp_path, engine=FakeEngine(token_s=0.002))
    house.registry.set("poet@1", Stage.LIVE)
    house.registry.set("clerk@1", Stage.LIVE)
    async with running(house):
        revoked = [house.client.begin_stream("poet", max_tokens=100_000) for _ in range(20)]
        other = house.client.begin_stream("clerk", max_tokens=100)
        for call in revoked:
            await call.begun(3)
        house.registry.set("poet@1", Stage.REVOKED)
        answers = [await call.answer() for call in revoked]
        untouched = await other.answer()

        await until(lambda: house.engine.loaded() == {ref_of("clerk@1")})
        assert house.engine.running() == 0

    assert {answer.events[-1]["choices"][0]["finish_reason"] for answer in answers} == {"abort"}
    assert len(untouched.events) == 100


async def test_answer_that_had_not_begun_becomes_the_404(tmp_path: Path) -> None:
    house = make_house(tmp_path, engine=FakeEngine(token_s=0.01))
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        call = house.client.begin("POST", "/v1/completions", b'{"model":"poet","max_tokens":100000}')
        await until(lambda: house.engine.running() == 1)
        house.registry.set("poet@1", Stage.REVOKED)
        answer = await call.answer()
        unknown = await house.client.ask("nobody")

    assert (answer.status, answer.body) == (unknown.status, unknown.body)


@pytest.mark.parametrize("is_stream", [True, False])
async def test_request_that_reaches_the_engine_after_the_revocation_gets_nothing_and_leaves_nothing(
    tmp_path: Path, is_stream: bool
) -> None:
    house = make_house(tmp_path, engine=FakeEngine(arrival_s=0.2, token_s=0.001))
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        body = b'{"model":"poet","max_tokens":100000,"stream":%s}' % str(is_stream).lower().encode()
        call = house.client.begin("POST", "/v1/completions", body)
        await until(lambda: len(house.server.bodies) == 1)
        await asyncio.sleep(0.02)
        house.registry.set("poet@1", Stage.REVOKED)
        answer = await call.answer()
        await asyncio.sleep(0.3)

        assert house.engine.loaded() == frozenset()
        assert house.engine.running() == 0
    if is_stream:
        assert b"poet@1:" not in answer.body
        assert answer.events[-1]["error"]["code"] == "model_not_found"
    else:
        assert answer.status == 404


async def test_late_request_that_arrives_during_the_drain_is_taken_out_again(tmp_path: Path) -> None:
    times = ReconcilerTimes(poll_s=0.005, drain_s=1.0)
    house = make_house(tmp_path, engine=FakeEngine(arrival_s=0.1), times=times)
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        call = house.client.begin_stream("poet", max_tokens=3)
        await until(lambda: len(house.server.bodies) == 1)
        house.registry.set("poet@1", Stage.REVOKED)
        await call.answer()
        await until(lambda: house.engine.calls.count(("evict", ref_of("poet@1"))) == 2)
        await until(lambda: not house.reconciler._evictions)

        assert house.engine.loaded() == frozenset()


async def test_nothing_answers_after_its_revocation_was_seen(tmp_path: Path) -> None:
    house = make_house(tmp_path, engine=FakeEngine(arrival_s=0.003, token_s=0.001))
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        for number in range(2, 12):
            house.registry.set(f"poet@{number}", Stage.LIVE)
            await until(lambda number=number: meaning(house, "poet") == f"poet@{number}")
            calls = [house.client.begin_stream("poet", max_tokens=1000) for _ in range(5)]
            await asyncio.sleep(0.001 * number)
            house.registry.set(f"poet@{number}", Stage.REVOKED)
            await until(lambda number=number: meaning(house, f"poet@{number}") is None)
            calls += [house.client.begin_stream(f"poet@{number}", max_tokens=1000) for _ in range(5)]
            answers = [await call.answer() for call in calls]

            assert {answer.status for answer in answers[5:]} == {404}
            for answer in answers[:5]:
                ended = answer.status == 404 or b"abort" in answer.body or b"model_not_found" in answer.body
                assert ended, answer
        await until(lambda: house.engine.loaded() == {ref_of("poet@1")})


@pytest.mark.parametrize("stage", [Stage.RETIRED, Stage.CANDIDATE, Stage.REVOKED])
async def test_version_that_steps_down_leaves_and_may_come_back(tmp_path: Path, stage: Stage) -> None:
    house = make_house(tmp_path)
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        house.registry.set("poet@1", stage)
        await until(lambda: not house.engine.loaded())
        if stage is not Stage.REVOKED:
            house.registry.set("poet@1", Stage.LIVE)
            await until(lambda: meaning(house, "poet") == "poet@1")


async def test_version_that_comes_back_while_it_is_leaving_is_admitted_afterwards(tmp_path: Path) -> None:
    house = make_house(tmp_path, engine=FakeEngine(evict_s=0.1))
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        house.registry.set("poet@1", Stage.RETIRED)
        await until(lambda: ("evict", ref_of("poet@1")) in house.engine.calls)
        house.registry.set("poet@1", Stage.LIVE)
        await until(lambda: meaning(house, "poet") == "poet@1")

        assert house.engine.loaded() == {ref_of("poet@1")}


async def test_version_that_is_revoked_while_it_is_loading_never_answers(tmp_path: Path) -> None:
    house = make_house(tmp_path, engine=FakeEngine(admit_s=0.1))
    async with running(house):
        house.registry.set("poet@1", Stage.LIVE)
        await until(lambda: bool(house.engine.calls))
        house.registry.set("poet@1", Stage.REVOKED)
        await until(lambda: ("evict", ref_of("poet@1")) in house.engine.calls)
        await until(lambda: not house.engine.loaded())

        assert meaning(house, "poet") is None


async def test_promotion_that_does_not_fit_is_logged_once_and_the_old_version_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    house = make_house(tmp_path, refusal_of=rank_limit(16))
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        house.registry.set("poet@2", Stage.LIVE, rank=64)
        await until(lambda: "poet@2" in caplog.text)
        house.registry.set("clerk@1", Stage.LIVE)
        await until(lambda: meaning(house, "clerk") is not None)

        assert meaning(house, "poet") == "poet@1"
        assert house.engine.admitted() == {ref_of("poet@1"), ref_of("clerk@1")}
    lines = [record.message for record in caplog.records if "cannot take" in record.message]
    assert lines == [
        "poet@2 is live but this server cannot take it: its rank 64 is above the 16 that the engine was planned for; "
        "a restart would plan; poet goes on answering from poet@1"
    ]
    assert house.registry.refusals == []


async def test_version_that_the_engine_refuses_is_logged_audited_and_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    house = make_house(tmp_path)
    house.registry.set("poet@1", Stage.LIVE)
    house.engine.refuses[ref_of("poet@2")] = "module xyz is not known"
    async with running(house):
        house.registry.set("poet@2", Stage.LIVE)
        house.registry.set("clerk@1", Stage.LIVE)
        await until(lambda: meaning(house, "clerk") == "clerk@1" and bool(house.registry.refusals))

        assert meaning(house, "poet") == "poet@1"
        assert meaning(house, "poet@2") is None
    assert house.registry.refusals == [("poet@2", "the engine would not load it")]
    assert caplog.text.count("module xyz is not known") == 1
    assert house.engine.calls.count(("admit", ref_of("poet@2"))) == 1


async def test_engine_that_breaks_while_loading_does_not_stop_the_loop(tmp_path: Path) -> None:
    house = make_house(tmp_path)
    admit = house.engine.admit

    async def broken(adapter):
        if adapter.ref == ref_of("poet@1"):
            raise ZeroDivisionError("oops")
        await admit(adapter)

    house.engine.admit = broken  # type: ignore[method-assign]
    house.registry.set("poet@1", Stage.LIVE)
    house.registry.set("clerk@1", Stage.LIVE)
    async with running(house):
        assert meaning(house, "poet") is None
        assert meaning(house, "clerk") == "clerk@1"


async def test_engine_that_clings_to_an_adapter_is_asked_again_and_health_says_so(tmp_path: Path) -> None:
    house = make_house(tmp_path)
    house.engine.clings_to.add(ref_of("poet@1"))
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        house.registry.set("poet@1", Stage.REVOKED)
        await until(lambda: house.reconciler.trouble() is not None)
        health = await house.client.get("/health")
        refused = await house.client.ask("poet@1")
        house.engine.clings_to.clear()
        await until(lambda: house.reconciler.trouble() is None)

        assert house.engine.loaded() == frozenset()
    assert (health.status, refused.status) == (503, 404)
    assert "poet@1" in health.json()["reason"]


async def test_damaged_file_is_refused_at_the_next_request_and_audited_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times = ReconcilerTimes(poll_s=30)
    house = make_house(tmp_path, times=times)
    house.registry.set("poet@1", Stage.LIVE)
    house.registry.set("clerk@1", Stage.LIVE)
    async with running(house):
        house.registry.file("poet@1").write_bytes(b"poet@2")
        answers = [await house.client.ask(model) for model in ("poet", "poet@1", "poet@live")]
        other = await house.client.ask("clerk")
        await until(lambda: bool(house.registry.refusals))
        await until(lambda: house.engine.loaded() == {ref_of("clerk@1")})

    assert [answer.status for answer in answers] == [404] * 3
    assert other.status == 200
    assert house.registry.refusals == [("poet@1", "its stored files are not what was approved")]
    assert caplog.text.count("refusing poet@1") == 1


async def test_damaged_file_is_found_without_a_request_and_its_streams_end(tmp_path: Path) -> None:
    house = make_house(tmp_path, engine=FakeEngine(token_s=0.002))
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        call = house.client.begin_stream("poet", max_tokens=100_000)
        await call.begun(3)
        house.registry.file("poet@1").write_bytes(b"poet@2")
        answer = await call.answer()
        await until(lambda: not house.engine.loaded())

    assert answer.events[-1]["choices"][0]["finish_reason"] == "abort"


@pytest.mark.parametrize("harm", ["added", "removed", "swapped", "folder"])
async def test_any_change_below_the_folder_is_noticed(tmp_path: Path, harm: str) -> None:
    house = make_house(tmp_path)
    house.registry.set("poet@1", Stage.LIVE)
    file = house.registry.file("poet@1")
    async with running(house):
        assert house.reconciler.is_unchanged(ref_of("poet@1"))
        stat = file.stat()
        match harm:
            case "added":
                (file.parent / "adapter_model.bin").write_bytes(b"pickle")
            case "removed":
                file.unlink()
            case "swapped":
                (tmp_path / "other").write_bytes(b"poet@2")
                (tmp_path / "other").replace(file)
                os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            case _:
                shutil.rmtree(file.parent)

        assert not house.reconciler.is_unchanged(ref_of("poet@1"))


async def test_file_that_was_only_touched_goes_on_answering(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    house = make_house(tmp_path)
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        os.utime(house.registry.file("poet@1"))
        answers = await asyncio.gather(*(house.client.ask("poet") for _ in range(10)))
        await until(lambda: house.reconciler.is_unchanged(ref_of("poet@1")))

    assert {answer.status for answer in answers} == {200}
    assert house.engine.calls == [("admit", ref_of("poet@1"))]
    assert "touched and are intact" in caplog.text


async def test_file_that_was_restored_answers_again(tmp_path: Path) -> None:
    house = make_house(tmp_path)
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        house.registry.file("poet@1").write_bytes(b"other")
        await until(lambda: meaning(house, "poet") is None)
        house.registry.file("poet@1").write_bytes(b"poet@1")
        await until(lambda: meaning(house, "poet") == "poet@1")

        assert house.engine.loaded() == {ref_of("poet@1")}


async def test_file_that_changes_while_it_is_hashed_is_not_served(tmp_path: Path) -> None:
    house = make_house(tmp_path)
    house.registry.set("poet@1", Stage.LIVE)
    verify = house.registry.verify

    def writing(version):
        house.registry.file("poet@1").write_bytes(b"poet@1")
        return verify(version)

    house.reconciler._verify = writing
    async with running(house):
        assert meaning(house, "poet") is None
        assert house.engine.calls == []


async def test_file_that_changes_while_the_engine_reads_it_is_not_served(tmp_path: Path) -> None:
    house = make_house(tmp_path, times=ReconcilerTimes(poll_s=30, retry_s=30))
    house.registry.set("poet@1", Stage.LIVE)
    admit = house.engine.admit

    async def swapped(adapter):
        house.registry.file("poet@1").write_bytes(b"swapped")
        await admit(adapter)

    house.engine.admit = swapped  # type: ignore[method-assign]
    async with running(house):
        assert meaning(house, "poet") is None
        await until(lambda: not house.engine.loaded())


async def test_check_that_breaks_refuses_that_version_only(tmp_path: Path) -> None:
    house = make_house(tmp_path)
    house.registry.set("poet@1", Stage.LIVE)
    house.registry.set("clerk@1", Stage.LIVE)
    house.registry.file("poet@1").unlink()
    async with running(house):
        assert meaning(house, "poet") is None
        assert meaning(house, "clerk") == "clerk@1"


async def test_refusal_is_written_once_the_audit_log_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loractl.gateway.refusals._RETRY_S", 0.01)
    house = make_house(tmp_path)
    house.registry.set("poet@1", Stage.LIVE)
    house.registry.audit_failure = OSError("database is locked")
    async with running(house):
        house.registry.file("poet@1").write_bytes(b"other")
        await until(lambda: meaning(house, "poet") is None)
        house.registry.audit_failure = None
        await until(lambda: len(house.registry.refusals) == 1)


async def test_registry_that_is_locked_briefly_changes_nothing(tmp_path: Path) -> None:
    house = make_house(tmp_path, times=ReconcilerTimes(poll_s=0.005, grace_s=10))
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        house.registry.failure = OSError("database is locked")
        await asyncio.sleep(0.1)
        during = await house.client.ask("poet")
        health = await house.client.get("/health")
        house.registry.failure = None
        house.registry.set("poet@2", Stage.LIVE)
        await until(lambda: meaning(house, "poet") == "poet@2")

    assert (during.status, health.status) == (200, 200)


@pytest.mark.parametrize("trouble", ["failing", "gone"])
async def test_registry_that_stays_unreadable_leaves_only_the_base(tmp_path: Path, trouble: str) -> None:
    house = make_house(tmp_path)
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        if trouble == "failing":
            house.registry.failure = OSError("disk I/O error")
        else:
            house.registry.database.rename(tmp_path / "away")
        await until(lambda: meaning(house, "poet") is None)
        refused, base = await house.client.ask("poet@1"), await house.client.ask("base")
        health, models = await house.client.get("/health"), await house.client.models()
        if trouble == "failing":
            house.registry.failure = None
        else:
            (tmp_path / "away").rename(house.registry.database)
        await until(lambda: meaning(house, "poet") == "poet@1")
        again = await house.client.get("/health")

    assert (refused.status, base.status, health.status, again.status) == (404, 200, 503, 200)
    assert "registry cannot be read" in health.json()["reason"]
    assert models == ["base"]


async def test_registry_that_hangs_leaves_only_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loractl.gateway.reconciler._SLOW_LOOK_S", 0.05)
    house = make_house(tmp_path)
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        house.registry.hold.acquire()
        try:
            await until(lambda: meaning(house, "poet") is None)
        finally:
            house.registry.hold.release()
        await until(lambda: meaning(house, "poet") == "poet@1")


async def test_registry_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    house = make_house(tmp_path)
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        opened = house.registry.opened
        (tmp_path / "restored").touch()
        (tmp_path / "restored").replace(house.registry.database)

        await until(lambda: house.registry.opened > opened)


async def test_loop_survives_its_own_mistakes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    house = make_house(tmp_path)
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        take_in, house.reconciler._take_in = house.reconciler._take_in, None  # type: ignore[assignment,method-assign]
        await until(lambda: "following the registry failed" in caplog.text)
        await until(lambda: meaning(house, "poet") is None)
        house.reconciler._take_in = take_in  # type: ignore[method-assign]
        await until(lambda: meaning(house, "poet") == "poet@1")


async def test_stop_leaves_no_task_behind(tmp_path: Path) -> None:
    house = make_house(tmp_path, engine=FakeEngine(admit_s=30))
    async with running(house):
        house.registry.set("poet@1", Stage.LIVE)
        await until(lambda: bool(house.engine.calls))

    assert {
        task for task in asyncio.all_tasks() if task is not asyncio.current_task() and "loractl" in str(task)
    } == set()


async def test_operator_reads_what_changed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="loractl")
    house = make_house(tmp_path, times=FAST)
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        house.registry.set("poet@2", Stage.LIVE)
        await until(lambda: meaning(house, "poet") == "poet@2")
        house.registry.set("poet@2", Stage.REVOKED)
        await until(lambda: not house.reconciler._evictions and house.engine.loaded() == {ref_of("poet@1")})

    lines = [record.message for record in caplog.records]
    assert lines == [
        "poet now answers from poet@1",
        "poet@1 is served",
        "poet now answers from poet@2",
        "poet@2 is served",
        "poet is not served any more",
        "poet@2 is not served any more",
        "poet@2 is out of the engine",
    ]


async def test_stream_that_is_refused_before_its_first_token_ends_in_an_error(tmp_path: Path) -> None:
    house = make_house(tmp_path, engine=FakeEngine(token_s=0.05), times=ReconcilerTimes(poll_s=0.005, drain_s=5))
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        call = house.client.begin_stream("poet", max_tokens=100)
        await call.begun(1)
        house.registry.set("poet@1", Stage.REVOKED)
        answer = await call.answer()

    assert [event["error"]["code"] for event in answer.events] == ["model_not_found"]


async def test_commit_that_leaves_no_trace_on_the_files_is_found_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = make_house(tmp_path, times=ReconcilerTimes())
    house.registry.set("poet@1", Stage.LIVE)
    async with running(house):
        monkeypatch.setattr("loractl.gateway.reconciler.trace_of", lambda _: ())
        house.registry.set("poet@1", Stage.REVOKED)

        assert await until(lambda: meaning(house, "poet") is None) < ONE_SECOND


async def test_files_of_many_versions_are_all_looked_at_in_turn(tmp_path: Path) -> None:
    house = make_house(tmp_path)
    for number in range(1, 41):
        house.registry.set(f"poet@{number}", Stage.APPROVED)
    async with running(house):
        assert len(house.engine.loaded()) == 40
        for number in (1, 17, 40):
            house.registry.file(f"poet@{number}").write_bytes(b"other")
        await until(lambda: len(house.engine.loaded()) == 37)
