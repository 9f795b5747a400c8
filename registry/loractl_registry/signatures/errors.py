"""What is refused about the signature of an adapter's files."""

from __future__ import annotations

from collections.abc import Iterable

from loractl_registry.errors import DeniedError, RegistryError
from loractl_registry.file_errors import shown
from loractl_registry.trust.errors import short

_SIGN_AGAIN = "have its author sign exactly these files: model_signing sign key FOLDER --signature model.sig"
_EXACT_COPY = "copy the signed files, and nothing else, to a folder of their own"


class FileSignatureError(DeniedError):
    """Root of what makes a signature of files worthless."""

    code = "signatures.denied"


class BundleError(FileSignatureError):
    """The signature file is malformed, too large, or of a kind that is not read."""

    code = "signatures.bundle"

    def __init__(self, problem: str) -> None:
        super().__init__(f"refused file signature: {problem}", hint="fetch it again, or have the files signed again")


class SignedPayloadError(BundleError):
    """The signature holds, and what it is over is no list of files, or one that two readers could read differently."""

    code = "signatures.payload"


class UnknownFileSignerError(FileSignatureError):
    """The files are signed by somebody, and by no key that is trusted."""

    code = "signatures.unknown_signer"

    def __init__(self, signer: str) -> None:
        super().__init__(
            f"refused file signature: it is by {signer}, which no identity here has",
            hint="if you know whose key it is, an operator may trust it: loractl identity trust NAME PUBLIC.pub",
        )
        self.signer = signer


class FileSignatureInvalidError(FileSignatureError):
    """The signature is not by the key that it names, over the list of files that it holds."""

    code = "signatures.invalid"

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"refused file signature: it is not by key {short(key_id)} over this list of files",
            hint="it was changed after signing; fetch it again, or have the files signed again",
        )
        self.key_id = key_id


class WrongSignatureKindError(FileSignatureError):
    """The signature was made in another way than the one that was asked to verify it."""

    code = "signatures.kind"

    def __init__(self, found: str, hint: str) -> None:
        super().__init__(f"refused file signature: it was made with {found}", hint=hint)
        self.found = found


class SignedFilesError(FileSignatureError):
    """The signed files and those at hand are not the same; the message names the first that differs.

    Attributes:
        files: The paths at fault, sorted.
    """

    code = "signatures.files"

    def __init__(self, files: Iterable[str], problem: str, *, hint: str) -> None:
        named = sorted(files)
        more = f" (and {len(named) - 1} more)" if len(named) > 1 else ""
        super().__init__(f"refused {shown(named[0])}{more}: {problem}", hint=hint)
        self.files = tuple(named)


class UnsignedFileError(SignedFilesError):
    """A file or a folder is there that the signature does not cover."""

    code = "signatures.unsigned_file"

    def __init__(self, files: Iterable[str]) -> None:
        super().__init__(files, "the signature does not cover it", hint=_EXACT_COPY)


class IgnoredFileError(SignedFilesError):
    """The signer asked verifiers to ignore a file that is part of the adapter."""

    code = "signatures.ignored_file"

    def __init__(self, files: Iterable[str]) -> None:
        super().__init__(files, "the signer left it out on purpose (ignore_paths)", hint=_SIGN_AGAIN)


class MissingSignedFileError(SignedFilesError):
    """A file was signed and is not there."""

    code = "signatures.missing_file"

    def __init__(self, files: Iterable[str]) -> None:
        super().__init__(files, "it was signed and is missing", hint="fetch the adapter again, with all its files")


class SignedDigestError(SignedFilesError):
    """A file is not the one that was signed."""

    code = "signatures.digest"

    def __init__(self, file: str, signed: str, found: str) -> None:
        super().__init__(
            [file],
            f"it was signed with digest {short(signed)} and has {short(found)}",
            hint="it was changed after signing; fetch the adapter again",
        )
        self.signed, self.found = signed, found


class UnsignableFileError(SignedFilesError):
    """What is there is no regular file, so no signature says what a reader would get."""

    code = "signatures.not_regular"

    def __init__(self, file: str, kind: str) -> None:
        super().__init__([file], f"it is {kind}", hint="copy the files themselves: cp -rL FOLDER COPY")


class RenamedFolderError(FileSignatureError):
    """The files were signed under another name than that of their folder."""

    code = "signatures.renamed_folder"

    def __init__(self, signed: str, found: str) -> None:
        super().__init__(
            f"refused file signature: the files were signed as {shown(signed)} and lie in {shown(found)}",
            hint="restore the folder's name, or sign the files where they are",
        )
        self.signed, self.found = signed, found


class SigningLibraryError(FileSignatureError):
    """model-signing itself refused; the message is its own."""

    code = "signatures.library"

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"model-signing refused: {problem}", hint="verify the files, then have them signed again: loractl verify"
        )


class SigningUnavailableError(RegistryError):
    """model-signing, or something that it needs, is not installed."""

    code = "signatures.unavailable"

    def __init__(self, missing: str) -> None:
        super().__init__(
            f"cannot sign files: {missing} is not installed", hint="install loractl again with its dependencies"
        )
        self.missing = missing


class KeylessInvalidError(FileSignatureError):
    """Sigstore finds that the signature is not by whom it should be, or not over what it holds."""

    code = "signatures.keyless_invalid"

    def __init__(self, identity: str, problem: str) -> None:
        super().__init__(
            f"refused file signature: sigstore does not find it signed by {shown(identity)}: {problem}",
            hint="check the identity and its issuer, or fetch the signature again",
        )
        self.identity = identity
