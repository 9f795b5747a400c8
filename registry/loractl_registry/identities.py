"""Who may sign in a home: identities are created, trusted with roles, and revoked, each by a signed statement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from loractl_registry._context import Context
from loractl_registry._store import audit, bases, statements, versions
from loractl_registry._store.audit import NewEvent
from loractl_registry._store.statements import StoredStatement
from loractl_registry.actors import parse_actor, parse_reason, require_reason
from loractl_registry.ledger.admissions import admissions_of, objection_to_base
from loractl_registry.ledger.adopting import REASON as ADOPTED
from loractl_registry.ledger.chains import (
    checked_chain,
    read_checkpoint,
    resumed_chain,
    verified_chain,
    write_checkpoint,
)
from loractl_registry.ledger.changing import grants_of, sign_account, sign_change
from loractl_registry.ledger.errors import IdentityExistsError, NoSuchIdentityError
from loractl_registry.ledger.identities import acting_identity, key_path, new_key, private_keys
from loractl_registry.ledger.judging import home_policy
from loractl_registry.ledger.kept import lost_bytes
from loractl_registry.ledger.pen import signed_writing
from loractl_registry.ledger.standing import Standings, objection_to
from loractl_registry.outcomes import (
    CheckpointWritten,
    HistoryVerification,
    Identity,
    SignedAdmission,
    SignedStanding,
    TrustedAccount,
)
from loractl_registry.records import AdapterVersion, Base
from loractl_registry.refs import parse_name
from loractl_registry.tenants import tenancy_problems
from loractl_registry.trust import (
    Account,
    Chain,
    Grant,
    IdentityVerb,
    MissingCheckpointError,
    PublicKey,
    Role,
    TrustError,
    load_public_key,
    load_root,
    parse_account,
    public_path_of,
    public_root,
)


class Identities:
    """The identities of one open home."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def select(self) -> tuple[Identity, ...]:
        """Return every key that is or was trusted, in that order, then the private keys here that are not."""
        chain, here = self._chain(), self._here()
        grants = () if chain is None else chain.trust.grants
        newest = {grant.key.key_id: grant for grant in grants}
        strangers = {key_id: name for key_id, (name, _) in here.items() if key_id not in newest}
        return (
            *(_of_grant(grant, is_here=key_id in here) for key_id, grant in newest.items()),
            *(_stranger(name, here[key_id][1]) for key_id, name in strangers.items()),
        )

    def named(self, name: str) -> tuple[Identity, ...]:
        """Return every key of the identity `name`.

        Raises:
            NoSuchIdentityError: It has none.
        """
        name, known = parse_name(name), self.select()
        found = tuple(one for one in known if one.name == name)
        if not found:
            raise NoSuchIdentityError(name, sorted({one.name for one in known}))
        return found

    def create(self, name: str, *, actor: str, passphrase: Callable[[], str] | None = None) -> Identity:
        """Create a pair of keys in the home. The first one of a home is trusted with every role; others are not yet.

        The first one signs for every version that is there, where it stands.

        Raises:
            IdentityExistsError: There is a private key of this name.
            TrustError: The passphrase cannot be used, or the chain is not what was signed.
        """
        name, actor = parse_name(name), parse_actor(actor)
        if self._chain() is None:
            with signed_writing(self._context, actor=actor) as pen:
                if pen.chain is None:
                    pen.begin(name, new_key(self._context, name, passphrase=passphrase))
                    return _of_grant(grants_of(pen)[0], is_here=True)
        path = key_path(self._context, name)
        if path.exists():
            raise IdentityExistsError(name, path)
        return _stranger(name, new_key(self._context, name, passphrase=passphrase).public)

    def trust(self, name: str, file: Path, roles: Sequence[str], *, actor: str, reason: str | None = None) -> Identity:
        """Trust the public key in `file` as the identity `name`, with `roles`; for a key that is trusted, change them.

        Raises:
            TrustError: The key cannot be used, or the one who acts may not say so.
        """
        name, actor, key, reason = parse_name(name), parse_actor(actor), load_public_key(file), parse_reason(reason)
        with signed_writing(self._context, actor=actor) as pen:
            sign_change(pen, name, IdentityVerb.TRUST, key.key_id, key, tuple(Role(role) for role in roles), reason)
            grant = next(grant for grant in reversed(grants_of(pen)) if grant.key.key_id == key.key_id)
        return _of_grant(grant, is_here=key.key_id in self._here())

    def trust_account(
        self,
        name: str,
        subject: str,
        issuer: str,
        roles: Sequence[str],
        *,
        actor: str,
        trusted_root: Path | None = None,
        reason: str | None = None,
    ) -> Identity:
        """Trust an account that signs without a key as the identity `name`, with `roles`.

        For an account that is trusted, change its roles or its root of trust.

        Args:
            name: Of the identity.
            subject: What its certificates are for: an address, or the URI of a workflow.
            issuer: URL of the OpenID provider that vouches for it.
            roles: What it may sign for.
            actor: Who acts.
            trusted_root: File ``trusted_root.json``; None for what sigstore-python has at hand of the public instance.
            reason: Why.

        Raises:
            UsageError: `subject` or `issuer` cannot be what certificates hold.
            TrustError: The root cannot be used, or the one who acts may not say so.
        """
        name, actor, reason = parse_name(name), parse_actor(actor), parse_reason(reason)
        root = public_root() if trusted_root is None else load_root(trusted_root)
        account = parse_account(subject, issuer, root)
        with signed_writing(self._context, actor=actor) as pen:
            sign_account(pen, name, account, tuple(Role(role) for role in roles), reason)
            grant = next(grant for grant in reversed(grants_of(pen)) if grant.key == account)
        return _of_grant(grant, is_here=False)

    def revoke(self, name: str, *, actor: str, reason: str) -> tuple[Identity, ...]:
        """Revoke every key of `name`, for good. What they signed until now stays signed.

        Raises:
            NoSuchIdentityError: No key of it is trusted.
            TrustError: The one who acts may not say so, or nobody could change identities afterwards.
        """
        name, actor, reason = parse_name(name), parse_actor(actor), require_reason(f"revoke {name}", reason)
        with signed_writing(self._context, actor=actor) as pen:
            held = [grant for grant in grants_of(pen) if grant.identity == name and grant.until is None]
            if not held:
                raise NoSuchIdentityError(name, sorted({grant.identity for grant in grants_of(pen)}))
            for grant in held:
                sign_change(pen, name, IdentityVerb.REVOKE, grant.key.key_id, None, (), reason)
            ended = {grant.key.key_id for grant in held}
            revoked = [grant for grant in grants_of(pen) if grant.key.key_id in ended and grant.is_revoked]
        here = self._here()
        return tuple(_of_grant(grant, is_here=grant.key.key_id in here) for grant in revoked)

    def checkpoint(self, *, actor: str, reason: str) -> CheckpointWritten:
        """Sign the head of the chain as it is and keep it as the checkpoint, whatever the old checkpoint says.

        For who restored an older database on purpose. The chain itself is verified all the same.

        Raises:
            NoSuchIdentityError: Nothing was ever signed.
            TrustError: The chain is not what was signed, or the one who acts is not trusted.
        """
        actor, reason = parse_actor(actor), require_reason("write a checkpoint", reason)
        context = self._context
        with context.database.writing() as connection:
            chain = verified_chain(context, connection)
            acting = acting_identity(context, chain, home_policy(context), actor=actor)
            if chain is None or acting.key is None:
                raise NoSuchIdentityError(acting.name, [])
            detail = {"sequence": chain.sequence, "head": chain.head, "signer": acting.name}
            event = NewEvent("registry.checkpoint", "registry", actor, context.clock(), reason=reason, detail=detail)
            audit.append(connection, event)
        write_checkpoint(context, acting.key)
        return CheckpointWritten(chain.sequence, chain.head, acting.name)

    def standing(self, version: AdapterVersion) -> SignedStanding:
        """Return where `version` stands by what was signed, and whether its row says the same."""
        try:
            standings = Standings(self._chain())
        except (TrustError, MissingCheckpointError) as error:
            return SignedStanding(None, None, None, None, str(error))
        held, objection = standings.get(version.ref), objection_to(version, standings)
        if held is None or not held.sequence:
            return SignedStanding(None, None, None, None, objection)
        return SignedStanding(held.stage, held.signer, held.sequence, held.expires, objection, held.break_glass)

    def admission(self, base: Base) -> SignedAdmission:
        """Return who admitted `base` by what was signed, and whether its row says the same."""
        try:
            admissions = admissions_of(self._context, self._chain())
        except (TrustError, MissingCheckpointError) as error:
            return SignedAdmission(None, None, str(error))
        held, objection = admissions.get(base.name), objection_to_base(base, admissions)
        return SignedAdmission(held.signer if held else None, held.sequence if held else None, objection)

    def verify(self) -> HistoryVerification:
        """Verify every statement, the checkpoint, the rows, the bytes of evidence, and the chain of the audit log."""
        context, problems, head = self._context, list[str](), None
        context.verified.chain = None
        context.verified.signatures.clear()
        seen = read_checkpoint(context)
        with context.database.reading() as connection:
            count, events = statements.count(connection), audit.last_sequence(connection)
            try:
                chain = checked_chain(context, connection, seen)
            except (TrustError, MissingCheckpointError) as error:
                problems.append(str(error))
            else:
                head = None if chain is None else chain.head
                rows = versions.select(connection, context.path_of)
                problems += _disagreements(rows, chain)
                problems += _base_disagreements(context, bases.select(connection), chain)
                problems += lost_bytes(context, connection, chain, rows)
                problems += _unrecorded(chain, audit.named_statements(connection))
                problems += _misfiled(chain, statements.select(connection))
            problems += audit.broken_links(connection)
            problems += tenancy_problems(context, connection)
        return HistoryVerification(count, head, events, tuple(problems))

    def _chain(self) -> Chain | None:
        seen = read_checkpoint(self._context)
        with self._context.database.reading() as connection:
            return resumed_chain(self._context, connection, seen)

    def _here(self) -> dict[str, tuple[str, PublicKey]]:
        """Return name and public key of every private key in the home, by key id."""
        found: dict[str, tuple[str, PublicKey]] = {}
        for name, path in private_keys(self._context).items():
            public = load_public_key(public_path_of(path))
            found[public.key_id] = (name, public)
        return found


def _disagreements(rows: Sequence[AdapterVersion], chain: Chain | None) -> list[str]:
    standings = Standings(chain)
    found = [f"{row.ref}: {objection}" for row in rows if (objection := objection_to(row, standings)) is not None]
    gone = sorted(standings.keys() - {row.ref for row in rows})
    return [*found, *(f"{ref}: statements are about it, and the database does not have it" for ref in gone)]


def _base_disagreements(context: Context, rows: Sequence[Base], chain: Chain | None) -> list[str]:
    if chain is None:
        return []
    admissions = admissions_of(context, chain)
    found = [f"base {row.name}: {why}" for row in rows if (why := objection_to_base(row, admissions)) is not None]
    gone = sorted({name for name, one in admissions.items() if one.is_admitted} - {row.name for row in rows})
    return [*found, *(f"base {name}: it was admitted, and the database does not have it" for name in gone)]


def _unrecorded(chain: Chain | None, named: set[str]) -> list[str]:
    """Say which statements no event names: their events were cut off or edited."""
    return [
        f"statement {place} is named by no event of the audit log"
        for place, verified in enumerate(() if chain is None else chain.statements, 1)
        if verified.digest not in named and getattr(verified.statement.predicate, "reason", None) != ADOPTED
    ]


def _misfiled(chain: Chain | None, rows: Sequence[StoredStatement]) -> list[str]:
    """Say which statements the database files under what they are not; no command can go on from its note then."""
    return [
        f"statement {place} is {verified.kind} of {verified.subject}, and the database files it under"
        f" {row.kind} of {row.subject}"
        for place, (verified, row) in enumerate(zip(() if chain is None else chain.statements, rows, strict=True), 1)
        if (verified.digest, verified.kind, verified.subject) != (row.digest, row.kind, row.subject)
    ]


def _of_grant(grant: Grant, *, is_here: bool) -> Identity:
    return Identity(
        name=grant.identity,
        key_id=grant.key.key_id,
        public_key=grant.key.pem if isinstance(grant.key, PublicKey) else None,
        roles=tuple(sorted(role.value for role in grant.roles)) if grant.until is None else (),
        is_trusted=grant.until is None,
        is_revoked=grant.is_revoked,
        is_here=is_here,
        account=_account_of(grant.key),
    )


def _account_of(key: PublicKey | Account) -> TrustedAccount | None:
    return TrustedAccount(key.subject, key.issuer, key.root_digest) if isinstance(key, Account) else None


def _stranger(name: str, key: PublicKey) -> Identity:
    return Identity(name, key.key_id, key.pem, (), is_trusted=False, is_revoked=False, is_here=True)
