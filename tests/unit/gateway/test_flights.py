"""Cutting a request off, at whatever moment its server listens."""

from __future__ import annotations

import asyncio

import pytest
from support.gateway import ref_of

from loractl.gateway.flights import Flight, Flights

pytestmark = pytest.mark.anyio


async def silence() -> dict[str, object]:
    await asyncio.Event().wait()
    raise AssertionError


async def test_message_from_the_client_passes_unchanged() -> None:
    message = {"type": "http.request", "body": b"x"}

    async def receive() -> dict[str, object]:
        return message

    assert await Flight().receive(receive) is message


async def test_cut_is_heard_by_whoever_listens_then_or_later() -> None:
    flight = Flight()
    listening = asyncio.create_task(flight.receive(silence))
    await asyncio.sleep(0)
    flight.cut()
    flight.cut()

    assert (await listening)["type"] == "http.disconnect"
    assert (await flight.receive(silence))["type"] == "http.disconnect"
    assert listening.cancelling() == 0


async def test_listener_that_is_cancelled_by_its_server_stays_cancelled() -> None:
    flight = Flight()
    listening = asyncio.create_task(flight.receive(silence))
    await asyncio.sleep(0)
    flight.cut()
    listening.cancel()

    with pytest.raises(asyncio.CancelledError):
        await listening


async def test_second_listener_is_cut_though_the_first_ends_after_it_began() -> None:
    flight = Flight()
    first = asyncio.create_task(flight.receive(silence))
    await asyncio.sleep(0)
    second = asyncio.create_task(flight.receive(silence))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    flight.cut()

    assert (await asyncio.wait_for(second, 1))["type"] == "http.disconnect"


async def test_flights_are_counted_by_version_while_they_last() -> None:
    flights = Flights()
    with flights.board(ref_of("poet@1")) as flight, flights.board(ref_of("poet@2")) as other:
        flights.refuse(ref_of("poet@1"))
        counts = [flights.count(ref_of(ref)) for ref in ("poet@1", "poet@2", "poet@3")]

        assert not await flights.landed(ref_of("poet@1"), within_s=0.02)

    assert counts == [1, 1, 0]
    assert (flight.is_refused, other.is_refused) == (True, False)
    assert await flights.landed(ref_of("poet@1"), within_s=0)
