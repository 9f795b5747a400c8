"""Who may sign what: the one table of roles."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Role(StrEnum):
    """What a key is trusted with. A key may have several."""

    CONTRIBUTOR = "contributor"
    REVIEWER = "reviewer"
    OPERATOR = "operator"
    AUDITOR = "auditor"


class Act(StrEnum):
    """What a signature does, in the words of messages."""

    ADD = "addition"
    ADD_EVIDENCE = "evidence"
    SIGN_FILES = "signature of files"
    TO_CANDIDATE = "promotion to candidate"
    TO_APPROVED = "promotion to approved"
    TO_LIVE = "promotion to live"
    APPROVE = "approval"
    REJECT = "rejection"
    DEMOTE = "demotion"
    RETIRE = "retirement"
    REVOKE = "revocation"
    BREAK_GLASS = "break-glass"
    ADMIT_BASE = "admission of a base"
    WITHDRAW_BASE = "withdrawal of a base"
    TAKE_INVENTORY = "inventory"
    CHANGE_IDENTITIES = "change of identities"
    CHECKPOINT = "checkpoint"


_EVERYBODY = frozenset(Role)

_WHO_WORKS = frozenset({Role.CONTRIBUTOR, Role.REVIEWER, Role.OPERATOR})

MAY_SIGN: Mapping[Act, frozenset[Role]] = {
    Act.ADD: _WHO_WORKS,
    Act.ADD_EVIDENCE: _WHO_WORKS,
    Act.SIGN_FILES: _WHO_WORKS,
    Act.TO_CANDIDATE: _WHO_WORKS,
    # Operators run the service and do not judge adapters; where they must, break-glass says so loudly.
    Act.TO_APPROVED: frozenset({Role.REVIEWER}),
    Act.TO_LIVE: frozenset({Role.OPERATOR}),
    Act.APPROVE: frozenset({Role.REVIEWER}),
    Act.REJECT: frozenset({Role.REVIEWER}),
    Act.DEMOTE: frozenset({Role.REVIEWER, Role.OPERATOR}),
    Act.RETIRE: frozenset({Role.REVIEWER, Role.OPERATOR}),
    Act.REVOKE: frozenset({Role.REVIEWER, Role.OPERATOR}),
    Act.BREAK_GLASS: frozenset({Role.OPERATOR}),
    # Who of them may is for the policy, which every reader asks where no operator has signed.
    Act.ADMIT_BASE: _WHO_WORKS,
    Act.WITHDRAW_BASE: frozenset({Role.OPERATOR}),
    Act.TAKE_INVENTORY: frozenset({Role.OPERATOR}),
    Act.CHANGE_IDENTITIES: frozenset({Role.OPERATOR}),
    # Whoever moves the head writes it down outside; an auditor does nothing else.
    Act.CHECKPOINT: _EVERYBODY,
}
