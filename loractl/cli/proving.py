"""``loractl prove``: that an adapter changes what the base answers, and that every part of it does."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loractl.cli.app import Command, new_app
from loractl.cli.context import AppContext, context_of
from loractl.cli.errors import CliUsageError, VerificationFailedError
from loractl.cli.params import RefArgument, existing_file
from loractl.cli.style import Style, clean, count_text
from loractl.cli.tables import facts
from loractl.settings import DeviceChoice, ProveAt
from loractl_registry.records import AdapterVersion
from loractl_registry.refs import Ref
from loractl_registry.stages import Stage

if TYPE_CHECKING:
    from loractl.proof import EffectProof, EngineObservation, PromptSet
    from loractl_registry.preflight import PreflightReport

app = new_app("Proofs of effect.")


@app.command("prove", cls=Command, epilog="loractl prove support-bot@3\nloractl prove support-bot@3 --out proof.json")
def prove(
    ctx: typer.Context,
    ref: RefArgument,
    *,
    prompts: Annotated[
        Path | None,
        typer.Option(parser=existing_file, metavar="FILE", help="One prompt a line, or JSONL with a prompt each."),
    ] = None,
    device: Annotated[DeviceChoice | None, typer.Option(help="What to run the engine on.")] = None,
    engine: Annotated[bool, typer.Option(help="Start vLLM; without it, only the tensors are measured.")] = True,
    record: Annotated[bool, typer.Option(help="Sign the proof and keep it as evidence.")] = True,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep the proof, as canonical JSON.")] = None,
) -> None:
    """Show that an adapter changes what the base answers, and that every part of it does.

    vLLM answers with the adapter and without, and transformers with the adapter merged into the base's weights; then
    each pair of tensors is left out once. Where the base is too large to merge, each pair is measured by itself, and
    the proof says so. The proof is signed and kept as evidence, passed or not. Exit code 3 if the adapter has no
    effect, or another one than it should.
    """
    app = context_of(ctx, device=device)
    version = app.registry.version(ref)
    report = app.registry.preflight(version.ref)
    with app.working(f"proving {version.ref}"):
        proof = _prove(app, version, report, prompts, has_engine=engine)
    if out is not None:
        out.write_bytes(proof.to_json())
    kept = app.registry.evidence.add_effect(version.ref, proof.to_json(), actor=app.actor) if record else None
    digest = None if kept is None else kept.evidence.digest
    app.out.emit(
        lambda: {"ref": str(version.ref), "evidence": digest, **proof.model_dump(mode="json", by_alias=True)},
        lambda style: _lines(version, proof, style),
        hint=None if digest is None else f"loractl evidence list {version.ref}",
    )
    if not proof.passed:
        raise VerificationFailedError(
            f"{version.ref} does not have the effect that it should",
            hint="see the reasons above; no stage has changed",
        )


def prove_first(app: AppContext, ref: Ref, *, is_wanted: bool | None) -> None:
    """Prove the effect of a draft before it becomes a candidate, and keep the proof.

    With `is_wanted` None the setting ``prove`` says whether, and nothing is proven twice: ``policy`` where a rung asks
    for such a proof, ``auto`` also wherever an engine is installed, ``never`` nowhere, which the policy may then deny.

    Raises:
        VerificationFailedError: The adapter does not have the effect that it should; its stage has not changed.
    """
    version = app.registry.version(ref)
    if version.stage is not Stage.DRAFT or is_wanted is False or version.base is None:
        return
    if is_wanted is None and not _is_due(app, version):
        return
    if importlib.util.find_spec("torch") is None:
        app.out.warn("no proof of effect is made: neither an engine nor torch is installed")
        return
    report = app.registry.preflight(version.ref)
    with app.working(f"proving {version.ref}"):
        proof = _prove(app, version, report, None, has_engine=_is_engine_at_hand())
    app.registry.evidence.add_effect(version.ref, proof.to_json(), actor=app.actor)
    if not proof.passed:
        reasons = "; ".join(proof.verdict.reasons)
        raise VerificationFailedError(
            f"{version.ref} does not have the effect that it should: {clean(reasons)}",
            hint=f"it stays a draft; see: loractl evidence list {version.ref}",
        )


def _is_due(app: AppContext, version: AdapterVersion) -> bool:
    match app.settings.prove:
        case ProveAt.NEVER:
            return False
        case ProveAt.POLICY:
            is_asked = app.registry.policies.wants_effect()
        case ProveAt.AUTO:
            is_asked = _is_engine_at_hand() or app.registry.policies.wants_effect()
    return is_asked and not _has_proof(app, version)


def _has_proof(app: AppContext, version: AdapterVersion) -> bool:
    return any(kept.type == "effect" and kept.passed for kept in app.registry.evidence.select(version.ref))


def _is_engine_at_hand() -> bool:
    from loractl.engine.plan import Device
    from loractl.serving.device import has_vllm_build

    return any(map(has_vllm_build, Device))


def _prove(
    app: AppContext, version: AdapterVersion, report: PreflightReport, file: Path | None, *, has_engine: bool
) -> EffectProof:
    from loractl.proof import Subject, choose_prompts  # torch and transformers: seconds
    from loractl.proof import prove as prove_effect

    if version.base is None:
        raise CliUsageError(
            f"the base of {version.ref} is not known",
            hint=f"add it again: loractl add {version.ref.name} FOLDER --base NAME",
        )
    base = app.registry.base(version.base)
    asked = choose_prompts(base.path, base.config, adapter=version.path, file=file)
    subject = Subject(version.ref.name, version.path, version.digest, base.path, base.digest, base.config)
    observed = _observe(app, version, report, asked, base.path) if has_engine else None
    return prove_effect(subject, asked, observed)


def _observe(
    app: AppContext, version: AdapterVersion, report: PreflightReport, prompts: PromptSet, base: Path
) -> EngineObservation:
    from loractl.engine.plan import Device
    from loractl.proof import AdapterUnderTest, EngineSettings, observe
    from loractl.serving.device import choose_device, has_nvidia_gpu, has_vllm_build
    from loractl_registry.records import ExpertLayout

    device = choose_device(app.settings.device, has_gpu=has_nvidia_gpu, has_build=has_vllm_build)
    settings = EngineSettings.for_report(report, "cuda" if device is Device.CUDA else "cpu")
    under_test = AdapterUnderTest(version.ref.name, version.path, report.experts is ExpertLayout.FUSED)
    return observe(base, [under_test], prompts, settings)


def _lines(version: AdapterVersion, proof: EffectProof, style: Style) -> Iterator[str]:
    measured, verdict = proof.measured, proof.verdict
    said = "has its effect" if proof.passed else "does not have the effect that it should"
    yield f"{style.bold(str(version.ref))} {said}"
    yield from facts(
        [
            ("proof", proof.kind.value),
            ("prompts", f"{len(measured.prompts)}, {measured.prompts_source}"),
            ("engine", "not started" if measured.engine is None else f"vLLM {measured.engine.version}"),
            ("reference", measured.reference or f"none: {measured.without_reference}"),
            ("parts", f"{count_text(len(measured.pieces), 'pair')} of tensors, each measured"),
            ("effect", _number(verdict.effect)),
            ("noise", _number(verdict.noise)),
            ("disagreement", _number(verdict.disagreement)),
        ],
        style,
    )
    yield from (f"  {style.warn('no:')} {clean(reason)}" for reason in verdict.reasons)
    yield from (f"  note: {clean(finding)}" for finding in verdict.findings)


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"
