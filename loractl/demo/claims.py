"""What the demo claims, and the ledger of what was observed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Claimed(StrEnum):
    """One thing that a demonstration must see happen, in the order in which it happens."""

    @property
    def text(self) -> str:
        """The claim as a sentence."""
        raise NotImplementedError


class Claim(Claimed):
    """What the demonstration of one person claims."""

    BASE_ADMITTED = "base-admitted"
    ADAPTERS_STORED = "adapters-stored"
    SAME_BYTES_KNOWN = "same-bytes-known"
    ALL_DRAFTS = "all-drafts"
    PROMOTED = "promoted"
    SERVER_READY = "server-ready"
    ONLY_APPROVED_LISTED = "only-approved-listed"
    DRAFT_REFUSED = "draft-refused"
    BASE_NEUTRAL = "base-neutral"
    PIRATE_SPEAKS = "pirate-speaks"
    SHAKESPEARE_SPEAKS = "shakespeare-speaks"
    MIXED_BATCH = "mixed-batch"
    TAMPERED_REFUSED = "tampered-refused"
    OTHERS_KEEP_SERVING = "others-keep-serving"
    TAMPER_VERIFIED = "tamper-verified"
    RESTORED = "restored"
    SECOND_VERSION_SPEAKS = "second-version-speaks"
    REVOKED_REFUSED = "revoked-refused"
    ROLLED_BACK = "rolled-back"
    STOPPED = "stopped"

    @property
    def text(self) -> str:
        """The claim as a sentence."""
        return _TEXTS[self]


_TEXTS = {
    Claim.BASE_ADMITTED: "the base is admitted by the digest of its files",
    Claim.ADAPTERS_STORED: "three adapters are stored as version 1 of their names",
    Claim.SAME_BYTES_KNOWN: "adding the same bytes again stores nothing and names the version that has them",
    Claim.ALL_DRAFTS: "all three are drafts, which nobody may serve",
    Claim.PROMOTED: "two are live after preflight, the third is still a draft",
    Claim.SERVER_READY: "vLLM is up and answers",
    Claim.ONLY_APPROVED_LISTED: "the server lists the base and the two live adapters, and nothing else",
    Claim.DRAFT_REFUSED: "a draft gets the same 404 as a name that does not exist",
    Claim.BASE_NEUTRAL: "the base answers in neutral English",
    Claim.PIRATE_SPEAKS: "pirate@1 answers as a pirate, and the answer says which version spoke",
    Claim.SHAKESPEARE_SPEAKS: "shakespeare@1 answers as Shakespeare, and the answer says which version spoke",
    Claim.MIXED_BATCH: "all of them streamed at the same time",
    Claim.TAMPERED_REFUSED: "a version with one flipped byte is refused",
    Claim.OTHERS_KEEP_SERVING: "the other adapter and the base keep answering",
    Claim.TAMPER_VERIFIED: "verify finds the damaged file, and the refusal is in the history",
    Claim.RESTORED: "with the byte put back, verify is content and the version answers again",
    Claim.SECOND_VERSION_SPEAKS: "version 2 answers after its promotion, without a restart",
    Claim.REVOKED_REFUSED: "a revoked version is refused under its name and under its number",
    Claim.ROLLED_BACK: "after rollback the name answers from version 1",
    Claim.STOPPED: "the server has stopped and nothing listens any more",
}


@dataclass(frozen=True, slots=True)
class Observation:
    """Whether a claim was seen to hold, and what was found."""

    claim: Claimed
    is_seen: bool
    found: str


class Ledger:
    """Collects observations; a claim that nobody observed counts as not seen."""

    def __init__(self, claims: Iterable[Claimed] = Claim) -> None:
        """Take everything that is claimed."""
        self._claims = tuple(claims)
        self._observations: dict[Claimed, Observation] = {}

    def record(self, observation: Observation) -> None:
        """Keep `observation`; once a claim was not seen, a later success does not mend it."""
        earlier = self._observations.get(observation.claim)
        if earlier is None or earlier.is_seen:
            self._observations[observation.claim] = observation

    def observations(self) -> tuple[Observation, ...]:
        """Return one observation per claim, in order."""
        return tuple(
            self._observations.get(claim, Observation(claim, is_seen=False, found="the demo did not get this far"))
            for claim in self._claims
        )

    def missing(self) -> tuple[Observation, ...]:
        """Return the claims that were not seen."""
        return tuple(observation for observation in self.observations() if not observation.is_seen)
