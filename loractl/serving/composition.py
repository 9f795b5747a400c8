"""Registry, engine, reconciler and gateway, put together inside the engine's process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, cast

from loractl.gateway.app import Gateway, GatewaySettings
from loractl.gateway.asgi import ASGIApp
from loractl.gateway.reconciler import Reconciler, ServedRegistry
from loractl.serving.config import EngineConfig
from loractl.vllm_plugin.engine import VllmEngine
from loractl_registry import AdapterVersion, Ref, Registry

_API_KEY = "VLLM_API_KEY"


class _Server(Protocol):
    """The part of a Starlette application that is used here."""

    state: object


def compose(app: ASGIApp, server: object, config: EngineConfig, environ: Mapping[str, str]) -> Gateway:
    """Return the gateway in front of `app`; the lifespan that is passed through it starts and stops it.

    Args:
        app: The rest of vLLM's application.
        server: vLLM's application itself; its `state` holds the engine.
        config: What `loractl serve` handed over.
        environ: Holds the API key, if the server shall want one.
    """
    reconciler = Reconciler(
        engine=VllmEngine(cast("_Server", server).state),
        registry=ServedRegistry(
            open=lambda: Registry.open(config.home, must_exist=True),
            database=config.home / "registry.db",
            base=config.base,
            actor=config.actor,
        ),
        refusal_of=config.plan.refusal_of,
        verify=verifier(config.home),
    )
    keys = frozenset({key} if (key := environ.get(_API_KEY)) else ())
    return Gateway(app, reconciler=reconciler, settings=GatewaySettings(api_keys=keys))


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
