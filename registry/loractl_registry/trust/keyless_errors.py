"""What is refused about accounts that sign without a key."""

from __future__ import annotations

from loractl_registry.errors import RegistryError, UsageError
from loractl_registry.file_errors import shown
from loractl_registry.trust.errors import TrustError


class KeylessSignatureError(TrustError):
    """Sigstore finds that a bundle is not by the account, or not over what it holds, under the pinned root."""

    code = "trust.keyless"

    def __init__(self, subject: str, issuer: str, problem: str) -> None:
        super().__init__(
            f"refused bundle: sigstore does not find it signed by {shown(subject)} of {shown(issuer)}: {problem}",
            hint="have it signed again by that account; if the root of trust has changed, pin the new one: "
            "loractl identity trust NAME --account SUBJECT --issuer URL",
        )
        self.subject, self.issuer, self.problem = subject, issuer, problem


class TrustedRootError(TrustError):
    """The text is no root of trust that bundles can be verified with."""

    code = "trust.trusted_root"

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"refused root of trust: {problem}", hint="give the trusted_root.json of a sigstore, or leave it out"
        )


class InvalidAccountError(UsageError):
    """It cannot be what a certificate names as its subject or its issuer."""

    code = "trust.account"

    def __init__(self, what: str, text: str) -> None:
        super().__init__(
            f"invalid {what} {shown(text[:80])}",
            hint="write the address or the URI of a workflow as the certificate has it, and the issuer as an https URL",
        )


class NoTokenError(TrustError):
    """The identity signs without a key, and nothing proves to sigstore who asks."""

    code = "trust.no_token"

    def __init__(self, subject: str, variable: str) -> None:
        super().__init__(
            f"cannot sign as {shown(subject)}: there is no OpenID token",
            hint=f"set {variable} to one with the audience sigstore",
        )


class KeylessUnavailableError(RegistryError):
    """Sigstore's services cannot be reached, or not as whoever asks."""

    code = "trust.keyless_unavailable"

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"cannot use sigstore keyless: {problem}",
            hint="signing needs the network; without one, sign with a key: loractl identity create NAME",
        )


class SigstoreMissingError(TrustError):
    """sigstore, or something that it needs, is not installed."""

    code = "trust.sigstore_missing"

    def __init__(self, missing: str) -> None:
        super().__init__(
            f"cannot use sigstore keyless: {missing} is not installed",
            hint="install loractl again with its dependencies",
        )
