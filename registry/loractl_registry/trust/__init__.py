"""Who said that a version may be used, and whether to believe it: keys, signed statements, their chain, checkpoints.

Imports cryptography and pydantic, which listing and completing do without: import it where it is used.
"""

from __future__ import annotations

from loractl_registry.trust.chain import Chain, verify_chain
from loractl_registry.trust.checkpoint import (
    Checkpoint,
    check_against,
    check_witness,
    sign_checkpoint,
    verify_checkpoint,
)
from loractl_registry.trust.envelope import VerifiedPayload, sign_envelope, verify_envelope
from loractl_registry.trust.errors import MissingCheckpointError, RollbackError, TrustError
from loractl_registry.trust.fields import ANY_TENANT, Signer, to_the_second
from loractl_registry.trust.keys import (
    IdentityKey,
    Passphrase,
    PublicKey,
    Signing,
    create_key,
    load_key,
    load_public_key,
    parse_key,
    parse_public_key,
    passphrase_from,
    public_path_of,
    save_key,
)
from loractl_registry.trust.predicates import (
    Approval,
    BaseRef,
    BreakGlass,
    Granting,
    IdentityChange,
    IdentityVerb,
    Promotion,
    Revocation,
    StepDown,
    home_id,
)
from loractl_registry.trust.roles import MAY_SIGN, Act, Role
from loractl_registry.trust.statements import (
    ApprovalStatement,
    BreakGlassStatement,
    IdentityStatement,
    PromotionStatement,
    RevocationStatement,
    Statement,
    StepDownStatement,
    identity_subject,
    parse_statement,
    sign_statement,
    subject_of,
)
from loractl_registry.trust.trust_store import Grant, TrustStore
from loractl_registry.trust.verifying import (
    VerifiedStatement,
    require_unexpired,
    verify_recorded,
    verify_root,
    verify_statement,
)
from loractl_registry.trust.witnesses import FileWitness, GitWitness, Witness

__all__ = [
    "ANY_TENANT",
    "MAY_SIGN",
    "Act",
    "Approval",
    "ApprovalStatement",
    "BaseRef",
    "BreakGlass",
    "BreakGlassStatement",
    "Chain",
    "Checkpoint",
    "FileWitness",
    "GitWitness",
    "Grant",
    "Granting",
    "IdentityChange",
    "IdentityKey",
    "IdentityStatement",
    "IdentityVerb",
    "MissingCheckpointError",
    "Passphrase",
    "Promotion",
    "PromotionStatement",
    "PublicKey",
    "Revocation",
    "RevocationStatement",
    "Role",
    "RollbackError",
    "Signer",
    "Signing",
    "Statement",
    "StepDown",
    "StepDownStatement",
    "TrustError",
    "TrustStore",
    "VerifiedPayload",
    "VerifiedStatement",
    "Witness",
    "check_against",
    "check_witness",
    "create_key",
    "home_id",
    "identity_subject",
    "load_key",
    "load_public_key",
    "parse_key",
    "parse_public_key",
    "parse_statement",
    "passphrase_from",
    "public_path_of",
    "require_unexpired",
    "save_key",
    "sign_checkpoint",
    "sign_envelope",
    "sign_statement",
    "subject_of",
    "to_the_second",
    "verify_chain",
    "verify_checkpoint",
    "verify_envelope",
    "verify_recorded",
    "verify_root",
    "verify_statement",
]
