"""Every attack that is tried."""

from __future__ import annotations

from attacks import (
    on_accounts,
    on_effect,
    on_exports,
    on_facts,
    on_files,
    on_notes,
    on_people,
    on_requests,
    on_statements,
    on_store,
    on_tenants,
)
from attacks.declaring import Attack

ATTACKS: tuple[Attack, ...] = (
    *on_files.ATTACKS,
    *on_effect.ATTACKS,
    *on_store.ATTACKS,
    *on_statements.ATTACKS,
    *on_notes.ATTACKS,
    *on_exports.ATTACKS,
    *on_facts.ATTACKS,
    *on_people.ATTACKS,
    *on_accounts.ATTACKS,
    *on_requests.ATTACKS,
    *on_tenants.ATTACKS,
)
