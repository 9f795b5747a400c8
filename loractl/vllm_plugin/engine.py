"""A running vLLM behind our engine port, reached through what its API server keeps on the application's state."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, MutableMapping
from typing import Any, Protocol, cast

from loractl.engine.errors import EngineRefusedError
from loractl.engine.ports import EngineAdapter, EngineRoom, TokenCounts
from loractl.vllm_plugin import compat
from loractl.vllm_plugin.readings import READINGS
from loractl_registry import VersionRef

_EVICTION_ATTEMPTS = 20
_EVICTION_PAUSE_S = 0.05


class _Client(Protocol):
    """The part of vLLM's ``AsyncLLM`` that is used here."""

    output_processor: Any
    vllm_config: Any

    async def add_lora(self, lora_request: object) -> bool: ...
    async def remove_lora(self, lora_id: int) -> bool: ...
    async def list_loras(self) -> set[int]: ...
    async def abort(self, request_id: list[str], internal: bool) -> None: ...  # noqa: FBT001
    async def check_health(self) -> None: ...


class VllmEngine:
    """`EnginePort` over vLLM's API server.

    An adapter's integer id is never used for another one while the process lives, since vLLM keys its caches by it.
    More adapters than host slots are fine: vLLM drops the least recently used and reads it again from its path.
    """

    def __init__(self, state: object) -> None:
        """Take ``app.state`` of vLLM's API server, once the server has filled it."""
        compat.symbols()
        attributes = cast("Any", state)
        self._client = cast("_Client", attributes.engine_client)
        self._requests = cast("MutableMapping[str, Any]", attributes.openai_serving_models.lora_requests)
        self._max_num_seqs = int(self._client.vllm_config.scheduler_config.max_num_seqs)
        self._ids = itertools.count(1)
        self._id_of: dict[EngineAdapter, int] = {}
        self._lock = asyncio.Lock()

    async def admit(self, adapter: EngineAdapter) -> None:
        """Load `adapter` and let requests name it; see `EnginePort.admit`."""
        async with self._lock:
            name = str(adapter.ref)
            known = self._requests.get(name)
            if known is not None:
                if known.lora_path == str(adapter.path):
                    return
                raise EngineRefusedError(
                    f"the engine holds {name} from {known.lora_path}, not from {adapter.path}",
                    hint="evict it first; a version never changes its path",
                )
            request = self._request_for(adapter)
            try:
                loaded = await self._client.add_lora(request)
            except Exception as error:
                raise EngineRefusedError(f"the engine could not load {name}: {error}") from error
            if not loaded and request.lora_int_id not in await self._client.list_loras():
                raise EngineRefusedError(f"the engine did not load {name}, and did not say why")
            self._requests[name] = request

    async def evict(self, ref: VersionRef) -> None:
        """Refuse the name, abort its requests, remove it and check that it is gone; see `EnginePort.evict`."""
        self._requests.pop(str(ref), None)
        # By what was ever loaded under this ref, not by the name: a request that was on its way while the name was
        # taken out makes the worker load it again, and an eviction that failed has to be tried again.
        lora_ids = {lora_id for adapter, lora_id in self._id_of.items() if adapter.ref == ref}
        if not lora_ids:
            return
        for _ in range(_EVICTION_ATTEMPTS):
            await self._abort(str(ref))
            for lora_id in lora_ids:
                await self._client.remove_lora(lora_id)
            if lora_ids.isdisjoint(await self._client.list_loras()) and not self._running(str(ref)):
                return
            await asyncio.sleep(_EVICTION_PAUSE_S)
        raise EngineRefusedError(
            f"the engine still holds {ref} after {_EVICTION_ATTEMPTS} attempts to remove it",
            hint="requests for it are refused; restart the server to free its slot",
        )

    def admitted(self) -> frozenset[VersionRef]:
        """Return the refs that a request may name now."""
        return frozenset(adapter.ref for adapter in self._id_of if str(adapter.ref) in self._requests)

    async def is_healthy(self) -> bool:
        """Whether the engine can answer."""
        try:
            await self._client.check_health()
        except Exception:  # noqa: BLE001  (a dead engine raises what killed it)
            return False
        return True

    def room(self) -> EngineRoom:
        """Return how much vLLM's scheduler takes at once, and how full its KV cache was at its last step."""
        return EngineRoom(self._max_num_seqs, READINGS.kv_use)

    def counts_of(self, request_id: str) -> TokenCounts | None:
        """Return what vLLM has done for a request; all prompts and choices of it together."""
        states = cast("Mapping[str, Any]", self._client.output_processor.request_states)
        found = [state for state in states.values() if request_id in state.external_req_id]
        if not found:
            return None
        # The choices of one prompt share it, and vLLM counts it once.
        prompts = {state.external_req_id: state.prompt_len for state in found}
        written = sum(state.detokenizer.num_output_tokens() for state in found if state.detokenizer is not None)
        return TokenCounts(sum(prompts.values()), written)

    def _request_for(self, adapter: EngineAdapter) -> Any:
        lora_request = cast("Any", compat.symbols()["lora_request"].resolve())
        if adapter not in self._id_of:
            self._id_of[adapter] = next(self._ids)
        return lora_request(
            lora_name=str(adapter.ref),
            lora_int_id=self._id_of[adapter],
            lora_path=str(adapter.path),
            is_3d_lora_weight=adapter.is_fused,
        )

    def _running(self, name: str) -> list[str]:
        states = cast("Mapping[str, Any]", self._client.output_processor.request_states)
        return [request_id for request_id, state in states.items() if state.lora_name == name]

    async def _abort(self, name: str) -> None:
        if running := self._running(name):
            await self._client.abort(running, internal=True)
