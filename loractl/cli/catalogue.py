"""Which command lives in which module, and what its words stand for in tab completion."""

from __future__ import annotations

from typing import NamedTuple

ADAPTERS, LIFECYCLE, SERVING, TENANTS, UPKEEP, SETUP = (
    "Bases and adapters",
    "Lifecycle",
    "Serving",
    "Tenants and use",
    "Upkeep",
    "Set-up",
)
SECTIONS = (ADAPTERS, LIFECYCLE, SERVING, TENANTS, UPKEEP, SETUP)


class Entry(NamedTuple):
    """One name below ``loractl``: a command, or a group of them.

    Attributes:
        module: Below ``loractl.cli``; imported only when the command runs.
        section: Heading in ``loractl --help``.
    """

    module: str
    section: str
    is_group: bool = False


COMMANDS: dict[str, Entry] = {
    "base": Entry("bases", ADAPTERS, is_group=True),
    "add": Entry("adapters", ADAPTERS),
    "list": Entry("listing", ADAPTERS),
    "show": Entry("adapters", ADAPTERS),
    "diff": Entry("history", ADAPTERS),
    "history": Entry("history", ADAPTERS),
    "bom": Entry("bills", ADAPTERS),
    "prove": Entry("proving", LIFECYCLE),
    "evidence": Entry("evidence", LIFECYCLE, is_group=True),
    "promote": Entry("promoting", LIFECYCLE),
    "sign": Entry("signing", LIFECYCLE),
    "approve": Entry("approving", LIFECYCLE),
    "approvals": Entry("approving", LIFECYCLE),
    "review": Entry("reviewing", LIFECYCLE),
    "policy": Entry("policies", LIFECYCLE, is_group=True),
    "rollback": Entry("promoting", LIFECYCLE),
    "demote": Entry("lifecycle", LIFECYCLE),
    "reject": Entry("lifecycle", LIFECYCLE),
    "retire": Entry("lifecycle", LIFECYCLE),
    "revoke": Entry("lifecycle", LIFECYCLE),
    "serve": Entry("serve", SERVING),
    "top": Entry("top", SERVING),
    "demo": Entry("demo", SERVING),
    "tenant": Entry("tenants", TENANTS, is_group=True),
    "key": Entry("api_keys", TENANTS, is_group=True),
    "requests": Entry("recorded", TENANTS),
    "usage": Entry("recorded", TENANTS),
    "verify": Entry("integrity", UPKEEP),
    "fsck": Entry("integrity", UPKEEP),
    "gc": Entry("integrity", UPKEEP),
    "export": Entry("archives", UPKEEP),
    "import": Entry("archives", UPKEEP),
    "backup": Entry("archives", UPKEEP),
    "advisories": Entry("advisories", UPKEEP, is_group=True),
    "audit": Entry("auditing", UPKEEP, is_group=True),
    "dashboard": Entry("dashboards", SETUP, is_group=True),
    "identity": Entry("identities", SETUP, is_group=True),
    "doctor": Entry("doctor", SETUP),
    "config": Entry("configuration", SETUP, is_group=True),
    "kernels": Entry("kernels", SETUP, is_group=True),
    "completion": Entry("completion", SETUP, is_group=True),
}

# What the words of a command stand for, by command and parameter; the kinds are those of `loractl.cli.candidates`.
WORDS: dict[str, dict[str, str]] = {
    "base add": {"source": "folder"},
    "base show": {"name": "base"},
    "base verify": {"name": "base"},
    "base remove": {"name": "base"},
    "add": {"name": "adapter", "source": "folder", "base": "base", "provenance": "file"},
    "list": {"name": "adapter", "stage": "stage", "base": "base"},
    "show": {"ref": "ref"},
    "diff": {"before": "version", "after": "version"},
    "history": {"name": "adapter"},
    "bom": {"ref": "ref", "out": "file"},
    "prove": {"ref": "ref", "prompts": "file", "out": "file"},
    "evidence add": {"ref": "ref", "file": "file"},
    "evidence list": {"ref": "ref"},
    "evidence show": {"ref": "ref", "out": "file"},
    "evidence scan": {"ref": "ref"},
    "promote": {"ref": "promotable", "to": "rung"},
    "sign": {"ref": "ref"},
    "approve": {"ref": "ref"},
    "approvals": {"ref": "ref"},
    "policy check": {"file": "file"},
    "policy test": {"file": "file"},
    "policy explain": {"ref": "ref", "to": "rung"},
    "rollback": {"name": "rollback"},
    "demote": {"ref": "demotable"},
    "reject": {"ref": "rejectable"},
    "retire": {"ref": "retirable"},
    "revoke": {"ref": "revocable"},
    "serve": {"base": "base"},
    "top": {"base": "base"},
    "verify": {"refs": "ref"},
    "export": {"words": "ref"},
    "import": {"file": "file"},
    "backup": {"file": "file"},
    "advisories update": {"source": "file"},
    "audit export": {"file": "file"},
    "audit verify": {"export": "file", "checkpoint": "file"},
    "identity trust": {"file": "file"},
    "tenant add": {"adapters": "adapter"},
    "tenant show": {"name": "tenant"},
    "tenant set": {"name": "tenant", "adapters": "adapter"},
    "tenant remove": {"name": "tenant"},
    "key create": {"tenant": "tenant"},
    "key list": {"tenant": "tenant"},
    "requests": {"tenant": "tenant", "adapter": "adapter"},
    "dashboard export": {"kind": "dashboard", "to": "folder"},
    "key revoke": {"prefix": "api-key"},
}
COMMON_WORDS = {"home": "folder"}
