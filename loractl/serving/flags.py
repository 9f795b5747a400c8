"""Which flags of vLLM a user may pass through, and why not the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loractl.serving.errors import FlagRefusedError

_ADDRESS = ("loractl decides where the server listens", "pass --host and --port before the --")
_SURFACE = ("it would open a way around the gateway", "leave it out")
_BASE = ("the base is served exactly as it was admitted", "admit what you want to serve with: loractl base add")
_ADAPTERS = ("adapters and their limits come from the registry", "use --max-adapters and --max-rank before the --")
_CODE = ("it would run code that nobody admitted", "leave it out")
_PROMPTS = ("it would write or send what users ask and are answered", "leave it out")
_FILES = ("it would let requests read files of this machine", "leave it out")
_ONE_PROCESS = ("the gateway watches one API server on one machine", "run one loractl serve a machine")
_LOGGING = ("loractl reads the engine's log", "use --log-level before the --")
_WEIGHTS = ("it would load weights that nobody admitted", "leave it out")
_API_KEY = ("every user of this machine could read it in the process list", "set VLLM_API_KEY instead")
_DRAIN = ("loractl drains the server itself", "leave it out")
_ENVIRONMENT = ("loractl sets the engine's environment", "leave it out")
_TLS = ("loractl checks the server over plain HTTP", "put a proxy that speaks TLS in front")

_Reason = tuple[str, str]
_GROUPS: tuple[tuple[_Reason, str], ...] = (
    (_ADDRESS, "--host --port --uds --root-path"),
    (_SURFACE, "--middleware --grpc --grpc-port --headless --tokens-only --enable-scale-out --tool-server --config"),
    (_SURFACE, "--enable-sleep-mode --enable-elastic-ep --enable-fault-tolerance --enable-trace-replay"),
    (_BASE, "--model --served-model-name --tokenizer --hf-config-path --hf-overrides --model-class-overrides"),
    (_BASE, "--revision --code-revision --tokenizer-revision --config-format --hf-token --download-dir"),
    (_BASE, "--skip-tokenizer-init"),
    (_WEIGHTS, "--load-format --model-loader-extra-config --ignore-patterns --weight-transfer-config"),
    (_WEIGHTS, "--spec-model --speculative-config -sc"),
    (_CODE, "--trust-remote-code --tool-parser-plugin --reasoning-parser-plugin --io-processor-plugin"),
    (_CODE, "--logits-processors --worker-cls --worker-extension-cls --scheduler-cls --enable-prompt-embeds"),
    (_CODE, "--trust-request-chat-template --trust-request-mm-kwargs --enable-mm-embeds"),
    (_CODE, "--distributed-executor-backend"),
    (_PROMPTS, "--enable-log-requests --enable-log-outputs --enable-log-deltas --max-log-len --log-error-stack"),
    (_PROMPTS, "--kv-transfer-config --kv-events-config --ec-transfer-config --profiler-config"),
    (_PROMPTS, "--otlp-traces-endpoint"),
    (_FILES, "--allowed-local-media-path"),
    (_ONE_PROCESS, "--api-server-count -asc --nnodes --node-rank --master-addr --master-port --data-parallel-size"),
    (_LOGGING, "--log-level --logging-config --log-config-file --uvicorn-log-level"),
    (_API_KEY, "--api-key"),
    (_DRAIN, "--shutdown-timeout"),
    (_ENVIRONMENT, "--fail-on-environ-validation"),
)
_REFUSED: Mapping[str, _Reason] = {flag: reason for reason, flags in _GROUPS for flag in flags.split()}
# Flags in their own right, though a refused one starts like them.
_WHOLE = frozenset({"--reasoning-parser"})
_REFUSED_PREFIXES: Mapping[str, _Reason] = {
    "--ssl-": _TLS,
    "--enable-ssl-": _TLS,
    "--data-parallel-": _ONE_PROCESS,
    "--dp-supervisor-": _ONE_PROCESS,
    "-dp": _ONE_PROCESS,
    "-n": _ONE_PROCESS,
    "-r": _ONE_PROCESS,
}


def check_engine_flags(arguments: Sequence[str]) -> None:
    """Return if every flag among `arguments` may be passed to the engine.

    vLLM's parser takes ``_`` for ``-``, a ``--no-`` form, ``--flag=value``, ``--flag.key`` and any unambiguous start
    of a flag, so each of these counts as the flag itself.

    Raises:
        FlagRefusedError: One of them would undo a guarantee; the message says which.
    """
    if arguments and not arguments[0].startswith("-"):
        raise FlagRefusedError(arguments[0], "it is no flag", hint="write flags of vLLM, such as --max-model-len 8192")
    for argument in arguments:
        if argument.startswith("-") and not _is_number(argument):
            _check(argument)


def _check(argument: str) -> None:
    written = argument.partition("=")[0]
    flag = written.partition(".")[0].replace("_", "-").lower()
    if flag.startswith("--no-"):
        flag = "--" + flag.removeprefix("--no-")
    if flag == "--":
        raise FlagRefusedError(written, "what follows it is no flag", hint="leave it out")
    if reason := _REFUSED.get(flag) or _by_prefix(flag):
        raise FlagRefusedError(written, reason[0], hint=reason[1])
    if flag in _WHOLE:
        return
    if shortened := next((name for name in _REFUSED if name.startswith(flag)), None):
        raise FlagRefusedError(written, f"it is short for {shortened}", hint="write the flag in full")


def _by_prefix(flag: str) -> _Reason | None:
    if "lora" in flag:
        return _ADAPTERS
    return next((reason for prefix, reason in _REFUSED_PREFIXES.items() if flag.startswith(prefix)), None)


def _is_number(argument: str) -> bool:
    try:
        float(argument)
    except ValueError:
        return False
    return True
