"""Registry, engine, reconciler and gateway, put together inside the engine's process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol, cast

from loractl.engine.ports import EnginePort
from loractl.fairness import AdmissionController, Capacity, Limits, Policy
from loractl.gateway.app import Gateway, GatewaySettings
from loractl.gateway.asgi import ASGIApp
from loractl.gateway.callers import Door
from loractl.gateway.controls import Controls
from loractl.gateway.exchange import Journal
from loractl.gateway.keeping import Keeping
from loractl.gateway.live import LiveState
from loractl.gateway.reconciler import Reconciler, ServedRegistry
from loractl.observability.metrics import Metrics
from loractl.observability.records import RecordWriter
from loractl.observability.records_database import RECORDS_FILE
from loractl.observability.spans import SpanSender
from loractl.quotas import CounterFile, CounterSaving, Quotas
from loractl.serving.config import EngineConfig
from loractl.serving.operator_key import read_operator_key
from loractl.vllm_plugin.engine import VllmEngine
from loractl_registry import AdapterVersion, Ref, Registry

_RESERVED = 1 / 8
"""Share of the engine's seats that a busy tenant leaves to quiet ones; benchmarks/fairness.py has what that costs."""


class _Server(Protocol):
    """The part of a Starlette application that is used here."""

    state: object


def compose(app: ASGIApp, server: object, config: EngineConfig) -> Gateway:
    """Return the gateway in front of `app`; the lifespan that is passed through it starts and stops it.

    Args:
        app: The rest of vLLM's application.
        server: vLLM's application itself; its `state` holds the engine.
        config: What `loractl serve` handed over.

    Raises:
        OperatorKeyError, CountersUnusableError, ModuleNotFoundError: The key, the counters of quotas or OpenTelemetry
            cannot be used.
    """
    engine = VllmEngine(cast("_Server", server).state)
    metrics = Metrics()
    keeping = _keeping(config, metrics)
    door = Door(frozenset({read_operator_key(config.home)}), is_guarded=config.is_guarded)
    controls = Controls(
        door=door,
        quotas=keeping.quotas,
        admission=AdmissionController(
            capacity=partial(_capacity, engine, door),
            weight_of=door.weight_of,
            limits=Limits(slots=config.plan.slots, reserve=int(_RESERVED * engine.room().max_num_seqs)),
            policy=Policy(config.traffic.fairness.value),
        ),
        journal=Journal(metrics, keeping.records, keeping.spans),
    )
    reconciler = Reconciler(
        engine=engine,
        registry=ServedRegistry(
            open=lambda: Registry.open(config.home, must_exist=True, witness=config.witness),
            database=config.home / "registry.db",
            base=config.base,
            actor=config.actor,
        ),
        refusal_of=config.plan.refusal_of,
        verify=verifier(config.home),
        controls=controls,
    )
    return Gateway(
        app,
        reconciler=reconciler,
        controls=controls,
        live=LiveState(controls, slots=config.plan.slots, fairness=config.traffic.fairness),
        keeping=keeping,
        settings=GatewaySettings(queue_timeout_s=config.traffic.queue_timeout_s, orders_prompts=config.orders_prompts),
    )


def _keeping(config: EngineConfig, metrics: Metrics) -> Keeping:
    file = CounterFile.open(config.home / f"quotas-{config.base}.db")
    quotas, endpoint = Quotas(saved=file.load()), config.traffic.trace_endpoint
    return Keeping(
        quotas=quotas,
        saving=CounterSaving(quotas, file),
        records=RecordWriter(config.home / RECORDS_FILE, counters=metrics) if config.traffic.records else None,
        spans=None if endpoint is None else SpanSender(endpoint),
    )


def _capacity(engine: EnginePort, door: Door) -> Capacity:
    room = engine.room()
    return Capacity(room.max_num_seqs, room.kv_use, keeps_reserve=len(door.callers.tenants) > 1)


def verifier(home: Path) -> Callable[[AdapterVersion], str | None]:
    """Return the check, for any thread, that the stored files of a version are those that were added."""

    def verify(version: AdapterVersion) -> str | None:
        # A connection of SQLite belongs to one thread, and hashing takes far longer than opening one.
        with Registry.open(home, must_exist=True) as registry:
            found = registry.verify([Ref(version.ref.name, version.ref.number)])[0]
        if found.is_intact:
            return None
        return "; ".join(f"{damage.path}: expected {damage.expected}, found {damage.found}" for damage in found.damaged)

    return verify
