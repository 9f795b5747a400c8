"""Attacks on tenants: by their keys, by what they ask for, and by whoever can edit the home."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from attacks.acting import SeeField, Send
from attacks.declaring import Act, Attack, Deed, Has, Threat
from attacks.on_store import MISSING
from attacks.scene import Scene
from support.tampering import run_sql

from loractl_registry import utc_now
from loractl_registry.tenancy import Limits, pepper_path

SENT = Send()
JSON = (b"content-type", b"application/json")
NO_KEY = "401 invalid_api_key"
SAYS_KEY = "missing or unknown API key"


@dataclass(frozen=True)
class Tenant:
    """A tenant acme with a key, which the request carries, beside another tenant."""

    adapters: tuple[str, ...] = ("bot",)
    limits: Limits = Limits()  # noqa: RUF009  # frozen
    lasts: timedelta | None = None

    def __call__(self, scene: Scene) -> None:
        with scene.opened() as ada:
            ada.tenancy.add("rest", actor="ada", adapters=["bot"])
            ada.tenancy.add("acme", actor="ada", adapters=self.adapters, limits=self.limits)
            ends = None if self.lasts is None else utc_now() + self.lasts
            key, shown = ada.tenancy.create_key("acme", actor="ada", expires_at=ends)
        scene.name = key.prefix
        carry(scene, shown.reveal())


def carry(scene: Scene, key: str) -> None:
    """Let the request carry a key."""
    scene.request.headers = [JSON, (b"authorization", f"Bearer {key}".encode())]


ACME = Tenant()


def key_of(scene: Scene) -> str:
    """Return the key that the request carries."""
    assert scene.request.headers is not None
    return scene.request.headers[1][1].decode().removeprefix("Bearer ")


def by_key(id_: str, has: Has, deed: str, spoil: Deed, given: Deed = ACME) -> Attack:
    """Return an attack by a key that is not good; no answer says why it is not."""
    return Attack(id_, Threat.TENANTS, has, deed, spoil, Send("bot"), NO_KEY, SAYS_KEY, given=given)


def edited(id_: str, deed: str, *statements: str, given: Deed = ACME) -> Attack:
    """Return an attack by editing rows past the triggers."""

    def spoil(scene: Scene) -> None:
        run_sql(scene.home, *(statement.replace("{prefix}", scene.name) for statement in statements))

    return by_key(id_, Has.DATABASE, deed, spoil, given)


def _none(scene: Scene) -> None:
    scene.request.headers = [JSON]


def _guessed(scene: Scene) -> None:
    key = key_of(scene)
    carry(scene, key[:-1] + ("0" if key[-1] != "0" else "1"))


def _twice(scene: Scene) -> None:
    scene.request.headers = [JSON, *(2 * [(b"authorization", f"Bearer {key_of(scene)}".encode())])]


def _revoked(scene: Scene) -> None:
    with scene.opened() as ada:
        ada.tenancy.revoke_key(scene.name, actor="ada", reason="leaked")


def _removed(scene: Scene) -> None:
    with scene.opened() as ada:
        ada.tenancy.remove("acme", actor="ada", reason="left")


def _later(scene: Scene) -> None:
    scene.clock = lambda: utc_now() + timedelta(hours=2)


def _unrevoked(scene: Scene) -> None:
    _revoked(scene)
    run_sql(scene.home, "UPDATE api_key SET revoked_at = NULL")


def _own_pepper(scene: Scene) -> None:
    pepper_path(scene.home).write_bytes(b"\x07" * 32)


def _no_pepper(scene: Scene) -> None:
    pepper_path(scene.home).unlink()


def _guessed_operator(scene: Scene) -> None:
    carry(scene, "a" * 43)


KEYS = (
    by_key("tenant-no-key", Has.PORT, "Send no key where there are tenants", _none),
    by_key("tenant-key-guessed", Has.PORT, "Change the last digit of a key", _guessed),
    by_key("tenant-key-twice", Has.PORT, "Send the header with the key twice", _twice),
    by_key("tenant-key-revoked", Has.LOGIN, "Use a key that was revoked", _revoked),
    by_key("tenant-removed", Has.LOGIN, "Use the key of a tenant that was removed", _removed),
    by_key("tenant-key-expired", Has.LOGIN, "Use a key after its end", _later, Tenant(lasts=timedelta(hours=1))),
    by_key("operator-key-guessed", Has.PORT, "Send a key that looks like the operator's", _guessed_operator),
)

EDITS = (
    edited("tenant-widened", "Let a tenant use everything, with sqlite3", "UPDATE tenant SET adapters = '[\"*\"]'"),
    edited(
        "tenant-limit-lifted",
        "Lift the limits of a tenant with sqlite3",
        "DELETE FROM tenant_limit",
        given=Tenant(limits=Limits(requests_per_minute=100)),
    ),
    edited("tenant-weight-raised", "Raise the weight of a tenant with sqlite3", "UPDATE tenant SET weight = 1000"),
    edited(
        "tenant-priority-raised",
        "Put a tenant into the foremost class with sqlite3",
        "UPDATE tenant SET priority = 'interactive'",
    ),
    edited(
        "tenants-deleted",
        "Delete every tenant with sqlite3, so that the server is open again",
        "DELETE FROM api_key",
        "DELETE FROM tenant_limit",
        "DELETE FROM tenant",
    ),
    edited(
        "tenant-removed-by-row",
        "Mark every tenant as removed with sqlite3, so that the server is open again",
        "UPDATE tenant SET removed_at = added_at",
    ),
    edited(
        "key-digest-swapped",
        "Put the digest of another key into the row of a key",
        "UPDATE api_key SET digest = 'hmac-sha256:' || printf('%064d', 4)",
    ),
    by_key("key-unrevoked", Has.DATABASE, "Undo the revocation of a key with sqlite3", _unrevoked),
    by_key("pepper-swapped", Has.HOME, "Put another pepper into the home", _own_pepper),
    by_key("pepper-removed", Has.HOME, "Remove the pepper, so that no key can be checked", _no_pepper),
)


def asking(id_: str, deed: str, spoil: Deed, code: str, says: str, *, given: Deed = ACME, act: Act = SENT) -> Attack:
    """Return an attack by what a tenant asks for."""
    return Attack(id_, Threat.TENANTS, Has.LOGIN, deed, spoil, act, code, says, given=given)


def _asks(**body: object) -> Deed:
    def spoil(scene: Scene) -> None:
        scene.request.body = {"model": "bot", "prompt": "hello", **body}

    return spoil


def _reads(path: str) -> Deed:
    def spoil(scene: Scene) -> None:
        scene.request.method, scene.request.path = "GET", path

    return spoil


def _again(scene: Scene) -> None:
    scene.during = lambda: None


BOUNDED = Tenant(limits=Limits(max_output=20, max_context=200))
ASKED = (
    asking(
        "tenant-other-adapter",
        "Ask for an adapter of another tenant",
        _asks(model="other"),
        MISSING,
        "does not exist or is not served here",
    ),
    asking(
        "tenant-the-base",
        "Ask for the base, which is not among what the tenant may use",
        _asks(model="tiny-moe"),
        MISSING,
        "does not exist or is not served here",
    ),
    asking(
        "tenant-described",
        "Ask whether an adapter of another tenant exists",
        _reads("/v1/models/other"),
        MISSING,
        "does not exist or is not served here",
    ),
    asking("tenant-metrics", "Read what other tenants use from the metrics", _reads("/metrics"), NO_KEY, SAYS_KEY),
    asking("tenant-state", "Read who else is there", _reads("/loractl/v1/state"), NO_KEY, SAYS_KEY),
    asking(
        "tenant-quota",
        "Ask more often than the quota allows",
        _again,
        "429 rate_limit_exceeded",
        "requests per minute",
        given=Tenant(limits=Limits(requests_per_minute=1)),
    ),
    asking(
        "tenant-long-answer",
        "Ask for a longer answer than the tenant may have",
        _asks(max_tokens=21),
        "400 context_length_exceeded",
        "max_output",
        given=BOUNDED,
    ),
    asking(
        "tenant-long-answer-as-text",
        "Write the bound of the answer as a text, which the engine reads as a number",
        _asks(max_tokens="100000"),
        "400 field_refused",
        "whole number",
        given=BOUNDED,
    ),
    asking(
        "tenant-long-prompt",
        "Send a prompt that is short in bytes and long in tokens",
        _asks(prompt="a " * 300, max_tokens=1),
        "400 context_length_exceeded",
        "max_context",
        given=BOUNDED,
    ),
    asking(
        "tenant-cache-salt",
        "Set the salt of the prefix cache, to look into what another tenant has asked",
        _asks(cache_salt="theirs"),
        "replaced",
        "the engine got",
        act=SeeField("cache_salt"),
    ),
)


ATTACKS = (*KEYS, *EDITS, *ASKED)
