"""The body of ``loractl serve``: check, plan, start, watch."""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace

from loractl.engine.plan import EnginePlan, plan_engine
from loractl.logs import private_log_file
from loractl.serving.advisories import AdvisoryCheck, check_advisories, features_in_use
from loractl.serving.config import CONFIG_VARIABLE, EngineConfig
from loractl.serving.device import choose_device, has_nvidia_gpu, has_vllm_build
from loractl.serving.environment import engine_environment
from loractl.serving.errors import (
    BaseChangedError,
    DistrustError,
    EngineCrashedError,
    KeysMissingError,
    PortTakenError,
)
from loractl.serving.flags import check_engine_flags
from loractl.serving.operator_key import KEY_VARIABLE, write_operator_key
from loractl.serving.process import EngineProcess, log_path
from loractl.serving.readiness import Endpoint, answers, claim_endpoint, is_loopback
from loractl.serving.request import Ready, ServeRequest, ServeUi
from loractl.serving.state import RunState, process_start, remove_state, running, sole_server, write_state
from loractl.serving.supervision import Inbox, Supervision
from loractl.settings import Fairness
from loractl.vllm_plugin.command import engine_command, takes_prompts_in_order
from loractl_registry import Registry, ServingSnapshot, Stage, VersionVerification
from loractl_registry.advisories import Override


@dataclass(frozen=True, slots=True)
class PreparedServer:
    """Everything that is known before the engine starts.

    Attributes:
        snapshot: What may answer, without the damaged versions.
        argv: The vLLM command.
        environment: What loractl sets for it; the rest it inherits through an allow-list.
        withheld: Variables that the engine was spared, with why.
        advisories: What is known of the flaws of what is installed.
        damaged: Versions whose stored files are not what was added; they are not served.
    """

    snapshot: ServingSnapshot
    plan: EnginePlan
    endpoint: Endpoint
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    withheld: Mapping[str, str]
    damaged: tuple[VersionVerification, ...]
    advisories: AdvisoryCheck

    @property
    def shell(self) -> str:
        """The vLLM command as one would type it."""
        variables = [f"{name}={shlex.quote(value)}" for name, value in sorted(self.environment.items())]
        return " ".join([*variables, shlex.join(self.argv)])

    @property
    def models(self) -> tuple[str, ...]:
        """Every name that a request may ask for once the engine has taken what it can, the base last."""
        fitting = [version for version in self.snapshot.versions if self.plan.refusal_of(version) is None]
        live = [version.ref.name for version in fitting if version.stage is Stage.LIVE]
        return (*live, *(str(version.ref) for version in fitting), self.snapshot.base.name)


def prepare(request: ServeRequest, *, registry: Registry, ui: ServeUi) -> PreparedServer:
    """Check and plan everything that ``loractl serve`` would start, and start nothing; ``--dry-run`` ends here.

    Raises:
        FlagRefusedError, DeviceMissingError, EngineMissingError, PortTakenError: See each.
        KeysMissingError: Other machines could reach it, and no key is asked for.
        BaseChangedError: A file of the base is not what was admitted.
        DistrustError: The signed statements, or their checkpoint, are not what was signed.
        EngineDeniedError: The policy does not let the installed engine serve.
        EngineAdvisoryError: What is installed has a critical flaw that can be reached.
        NotFoundError: There is no such base.
    """
    check_engine_flags(request.engine_args)
    device = choose_device(request.device, has_gpu=has_nvidia_gpu, has_build=has_vllm_build)
    _require_keys(request, registry)
    endpoint = _endpoint(request)
    registry.policies.require_engine()
    _check_base(request.base, registry, ui)
    signed = registry.snapshot(request.base)
    if signed.distrust is not None:
        raise DistrustError(request.home, signed.distrust)
    snapshot, damaged = _intact(signed, registry)
    plan = plan_engine(snapshot, device=device, max_adapters=request.max_adapters, max_rank=request.max_rank)
    command = engine_command(
        plan,
        base_path=snapshot.base.path,
        host=endpoint.host,
        port=endpoint.port,
        extra_args=request.engine_args,
        in_order=request.traffic.fairness is Fairness.VTC,
    )
    seen = engine_environment(os.environ, {})
    features = features_in_use(command.argv, {**seen.variables, **command.env})
    reason = request.override_reason or ""
    overrides = [Override(each, reason) for each in request.override_advisories]
    known = check_advisories(registry, features, overrides=overrides)
    return PreparedServer(
        snapshot, plan, endpoint, tuple(command.argv), dict(command.env), seen.withheld, damaged, known
    )


def serve(request: ServeRequest, *, registry: Registry, ui: ServeUi) -> int:
    """Serve the base and its approved adapters until asked to stop; return the exit code.

    0 when SIGTERM or Ctrl-C ended a server that answered, after its running requests finished or `request.drain_s` was
    over; 130 when it was interrupted before it answered, or a second time while it drained.

    Raises:
        AlreadyServedError: Another process serves this base from this home.
        EngineCrashedError: The engine ended by itself; `ui` was shown its last lines.
        ServeError: See `prepare`.
    """
    with sole_server(request.home, request.base):
        server = prepare(request, registry=registry, ui=ui)
        ui.prepared(server)
        tell_advisories(request, server.advisories, registry, ui)
        for name, why in server.withheld.items():
            ui.notice("WARNING", f"the engine does not see {name}: {why}")
        for ref, reason in server.snapshot.refused.items():
            ui.notice("ERROR", f"{ref} is not served: {reason}")
        for found in server.damaged:
            # The gateway meets it again when it admits the others, refuses it, and writes that into the audit log.
            paths = ", ".join(damage.path for damage in found.damaged)
            ui.notice("ERROR", f"{found.ref} is not served: its stored files are damaged: {paths}")
        return _run(request, server, ui)


def tell_advisories(request: ServeRequest, known: AdvisoryCheck, registry: Registry, ui: ServeUi) -> None:
    """Say which known flaws can be reached, and write down which of them somebody decided to serve with."""
    for finding in known.overridden:
        registry.advisories.record_override(
            request.base, finding, actor=request.actor, reason=request.override_reason or ""
        )
    for finding in known.reachable:
        ui.notice("ERROR" if finding.refuses else "WARNING", str(finding))
    if known.stale is not None:
        ui.notice("WARNING", f"the advisories are {known.stale.days} days old: loractl advisories update SOURCE")


def _endpoint(request: ServeRequest) -> Endpoint:
    # An engine that is still loading has bound its port but does not listen yet, which another bind does not notice.
    for other in running(request.home):
        if other.port == request.port:
            raise PortTakenError(request.host, request.port, f"loractl serves base {other.base} there")
    return claim_endpoint(request.host, request.port)


def _require_keys(request: ServeRequest, registry: Registry) -> None:
    """Return if only this machine can reach the server, or a key is asked for."""
    is_guarded = bool(os.environ.get(KEY_VARIABLE)) or not registry.tenancy.snapshot().is_empty
    if not is_guarded and not is_loopback(request.host):
        raise KeysMissingError(request.host)


def _check_base(name: str, registry: Registry, ui: ServeUi) -> None:
    found = registry.verify_base(name, full=False, progress=ui.progress)
    if not found.is_intact:
        raise BaseChangedError(name, [damage.path for damage in found.damaged])


def _intact(snapshot: ServingSnapshot, registry: Registry) -> tuple[ServingSnapshot, tuple[VersionVerification, ...]]:
    """Return `snapshot` without the versions whose files are not what was added, and what was found about those."""
    damaged = tuple(found for found in registry.verify_bytes(snapshot.versions) if not found.is_intact)
    lost = {found.ref for found in damaged}
    return replace(snapshot, versions=tuple(v for v in snapshot.versions if v.ref not in lost)), damaged


def _run(request: ServeRequest, server: PreparedServer, ui: ServeUi) -> int:
    log = log_path(request.home, request.base)
    chosen = os.environ.get(KEY_VARIABLE) or None
    write_operator_key(request.home, chosen)
    config = EngineConfig(
        home=request.home,
        base=request.base,
        actor=request.actor,
        plan=server.plan,
        instance=secrets.token_hex(16),
        log_level=request.log_level,
        is_guarded=chosen is not None or not is_loopback(request.host),
        witness=request.witness,
        traffic=request.traffic,
        orders_prompts=takes_prompts_in_order(server.argv),
    )
    with Inbox() as inbox, _engine(request, server, config, inbox) as process:

        def ready(startup_s: float) -> None:
            ui.ready(Ready(server.endpoint, server.plan, server.models, startup_s, log))

        return Supervision(
            process,
            inbox,
            ui,
            answers=lambda: answers(server.endpoint, config.instance),
            on_ready=ready,
            crash=lambda when, code: EngineCrashedError(when, code, log),
            drain_s=request.drain_s,
        ).run()


@contextlib.contextmanager
def _engine(
    request: ServeRequest, server: PreparedServer, config: EngineConfig, inbox: Inbox
) -> Generator[EngineProcess]:
    """Start the engine, publish the run state, and take both back at the end, whatever happened."""
    file = config.write()
    own = {**server.environment, CONFIG_VARIABLE: str(file)}
    process: EngineProcess | None = None
    try:
        process = EngineProcess(
            server.argv,
            engine_environment(os.environ, own).variables,
            on_line=inbox.add_line,
            log=private_log_file(log_path(request.home, request.base)),
        )
        write_state(request.home, _state(request, server))
        yield process
    finally:
        if process is not None:
            process.kill()
        remove_state(request.home, request.base)
        file.unlink(missing_ok=True)


def _state(request: ServeRequest, server: PreparedServer) -> RunState:
    pid = os.getpid()
    started = process_start(pid)
    if started is None:
        raise OSError(f"no /proc/{pid}/stat")
    return RunState(pid, started, server.endpoint.host, server.endpoint.port, request.base, server.plan)
