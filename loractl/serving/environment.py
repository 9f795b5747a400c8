"""The environment that the engine sees: an allow-list, so that secrets and dangerous switches stay here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_NAMES = frozenset(
    {
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "LANG",
        "TZ",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "LD_PRELOAD",
        "VIRTUAL_ENV",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "CC",
        "CXX",
        "LORACTL_KERNELS_BACKEND",
        "LORACTL_KERNELS_CONFIGS",
        "PYTHONHASHSEED",
        "PYTHONWARNINGS",
        "TOKENIZERS_PARALLELISM",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "HF_HOME",
        "HF_HUB_CACHE",
    }
)
_PREFIXES = (
    "LC_",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
    "CUBLAS_",
    "OMP_",
    "KMP_",
    "MKL_",
    "GOMP_",
    "TORCH_",
    "TORCHINDUCTOR_",
    "TORCHDYNAMO_",
    "PYTORCH_",
    "TRITON_",
    "VLLM_",
)
# Each of these undoes a guarantee, though an administrator may well have it set for another server.
_REFUSED: Mapping[str, str] = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "it lets clients load adapters from any path",
    "VLLM_LORA_RESOLVER_CACHE_DIR": "it loads adapters that nobody approved",
    "VLLM_LORA_RESOLVER_HF_REPO_LIST": "it loads adapters that nobody approved",
    "VLLM_PLUGINS": "it can leave out loractl's own plugin",
    "VLLM_SERVER_DEV_MODE": "it opens vLLM's administrative routes",
    "VLLM_SKIP_MODEL_NAME_VALIDATION": "it answers unknown models from the base",
    "VLLM_USE_RUST_FRONTEND": "it serves around the gateway",
    "VLLM_RUST_FRONTEND_PATH": "it serves around the gateway",
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "it unpickles what it is sent",
    "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": "it logs what users are answered",
    "VLLM_TRACE_FUNCTION": "it logs every call",
    "VLLM_DEBUG_DUMP_PATH": "it writes requests to disk",
    "VLLM_LOGGING_CONFIG_PATH": "loractl reads the engine's log",
    "VLLM_CONFIGURE_LOGGING": "loractl reads the engine's log",
    "VLLM_LOGGING_PREFIX": "loractl reads the engine's log",
    "VLLM_KEEP_ALIVE_ON_ENGINE_DEATH": "a dead engine has to end the server",
    "VLLM_MODEL_REDIRECT_PATH": "it replaces the base by other files",
    "VLLM_USE_MODELSCOPE": "it fetches models from a hub",
    "VLLM_TEST_FORCE_LOAD_FORMAT": "it loads weights that were not admitted",
    "VLLM_MEDIA_CONNECTOR": "it lets requests fetch files",
    "VLLM_USAGE_STATS_SERVER": "nothing is reported to anybody",
}
# Checked by the gateway, which stands in front of everything; vLLM would want it of tenants too.
_FOR_THE_GATEWAY = frozenset({"VLLM_API_KEY"})
# The engine reads local files only, and tells nobody that it runs.
_FIXED: Mapping[str, str] = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "VLLM_LOGGING_COLOR": "0",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True, slots=True)
class EngineEnvironment:
    """What the engine sees, and the ``VLLM_*`` variables it was spared, each with why."""

    variables: Mapping[str, str]
    withheld: Mapping[str, str]


def engine_environment(inherited: Mapping[str, str], own: Mapping[str, str]) -> EngineEnvironment:
    """Return the part of `inherited` that the engine may see, and on top of it `own`, what loractl sets itself."""
    kept = {name: value for name, value in inherited.items() if _may_pass(name)}
    withheld = {name: why for name, why in _REFUSED.items() if inherited.get(name)}
    return EngineEnvironment({**kept, **_FIXED, **own}, withheld)


def _may_pass(name: str) -> bool:
    return name not in _REFUSED and name not in _FOR_THE_GATEWAY and (name in _NAMES or name.startswith(_PREFIXES))
