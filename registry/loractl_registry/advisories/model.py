"""Advisories about the engine and what it stands on: what is affected, how badly, and by what it can be reached."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum

from loractl_registry.advisories.ranges import Range


class Package(StrEnum):
    """What advisories are kept about, by its name on the index."""

    VLLM = "vllm"
    TORCH = "torch"
    TRANSFORMERS = "transformers"


class Severity(StrEnum):
    """How bad it is; unknown where nobody has said, which counts as less than critical."""

    UNKNOWN = "unknown"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class Feature(StrEnum):
    """What has to be in use for a flaw to be reached.

    ``engine-api-key``: the engine's own API key guards something; the gateway's keys are not it.
    ``hub-download``: the engine may fetch from a Hub; it may not where ``HF_HUB_OFFLINE`` is set.
    ``base-code``: the base holds code or asks for some (``auto_map``), which admission refuses.
    ``pickle-weights``: weights or checkpoints in pickles are loaded, which admission refuses.
    ``multimodal``: images, sound, video or their embeddings are accepted.
    ``prompt-embeds``: requests may bring embeddings (``--enable-prompt-embeds``).
    ``structured-output``: requests may ask for a grammar, a regular expression or a schema.
    ``prefix-cache``: the cache of one tenant answers another; a salt per tenant prevents that.
    ``harmony-tools``: gpt-oss with tools that the server itself calls.
    ``hot-lora``: adapters are added while others answer.
    ``speculative``: speculative decoding.
    ``kv-connector``: a connector moves the KV cache between processes.
    ``disaggregated``: prefill, decode or encoding run in servers of their own.
    ``multi-node``: one engine over several machines.
    ``score-api``: the routes ``/score`` and ``/rerank`` answer.
    ``rust-frontend``: the front end in Rust.
    ``python-optimized``: Python runs with ``-O`` or ``PYTHONOPTIMIZE``.
    ``training``: the environment also trains.
    """

    ENGINE_API_KEY = "engine-api-key"
    HUB_DOWNLOAD = "hub-download"
    BASE_CODE = "base-code"
    PICKLE_WEIGHTS = "pickle-weights"
    MULTIMODAL = "multimodal"
    PROMPT_EMBEDS = "prompt-embeds"
    STRUCTURED_OUTPUT = "structured-output"
    PREFIX_CACHE = "prefix-cache"
    HARMONY_TOOLS = "harmony-tools"
    HOT_LORA = "hot-lora"
    SPECULATIVE = "speculative"
    KV_CONNECTOR = "kv-connector"
    DISAGGREGATED = "disaggregated"
    MULTI_NODE = "multi-node"
    SCORE_API = "score-api"
    RUST_FRONTEND = "rust-frontend"
    PYTHON_OPTIMIZED = "python-optimized"
    TRAINING = "training"


@dataclass(frozen=True, slots=True)
class Advisory:
    """One flaw.

    Attributes:
        aliases: Its other ids, sorted.
        affected: A version is affected if it is in one of these.
        fixed_in: The first release without it, None if there is none or nobody said.
        summary: One line without a full stop.
        reachable_when: All of these have to be in use; empty if it is always reachable, or nobody has said when.
    """

    id: str
    aliases: tuple[str, ...]
    package: Package
    affected: tuple[Range, ...]
    fixed_in: str | None
    severity: Severity
    summary: str
    reachable_when: tuple[Feature, ...] = ()

    @property
    def ids(self) -> frozenset[str]:
        """All that it is called."""
        return frozenset({self.id, *self.aliases})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What was known on one day.

    Attributes:
        taken: That day, by the newest source that went in.
        advisories: Sorted by package and id.
    """

    taken: date
    advisories: tuple[Advisory, ...]
