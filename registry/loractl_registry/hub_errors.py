"""What a Hub refuses, without what it was asked with: no message holds a token or an address."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from loractl_registry.errors import DeniedError, NotFoundError, RegistryError, UsageError
from loractl_registry.file_errors import shown

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_TOKEN = "set HF_TOKEN to a token that may read it, or run: hf auth login"  # noqa: S105 - the name of a variable


class InvalidHubSourceError(UsageError):
    """The text after ``hf:`` names no repository."""

    code = "registry.invalid_hub_source"

    def __init__(self, text: str) -> None:
        super().__init__(f"invalid source {shown(text)}", hint="write hf:OWNER/REPO or hf:OWNER/REPO@REVISION")
        self.text = text


class HubError(RegistryError):
    """The Hub could not be reached, or answered with an error of its own."""

    code = "registry.hub"


class HubOfflineError(HubError):
    """Offline mode is on, and the Hugging Face cache does not hold what is needed."""

    code = "registry.hub_offline"

    def __init__(self, source: str) -> None:
        super().__init__(
            f"{source} is not in the Hugging Face cache, and offline mode is on",
            hint="unset HF_HUB_OFFLINE, or fetch it where there is a network with: hf download OWNER/REPO",
        )


class HubNotFoundError(NotFoundError):
    """No such repository, revision or file; a Hub says the same of a private repository."""

    code = "registry.hub_not_found"


class HubDeniedError(DeniedError):
    """The Hub wants a token, or the terms of the repository accepted."""

    code = "registry.hub_denied"


@contextmanager
def hub_errors_named(source: str) -> Generator[None]:
    """Turn what huggingface_hub raises inside the block into an error of the registry that names `source`."""
    from huggingface_hub import errors  # slow to import, and only Hub sources need it

    try:
        yield
    except errors.HFValidationError as error:
        raise InvalidHubSourceError(source) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise _missing(source, error) from error
    except errors.HfHubHTTPError as error:
        raise _answered(source, error) from error
    except _network_errors() as error:
        raise _unreachable(source) from error


def _network_errors() -> tuple[type[Exception], ...]:
    from huggingface_hub import errors  # loaded already

    # The library's HTTP client is not ours to name; this is where it shows the root of that client's errors.
    client_error: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # pyright: ignore[reportPrivateImportUsage]
    return (client_error, errors.FileMetadataError, ConnectionError, TimeoutError)


def _missing(source: str, error: BaseException) -> HubError:
    cause = error.__cause__
    if cause is not None and type(cause).__name__ != "OfflineModeIsEnabled":
        return _unreachable(source)
    return HubOfflineError(source)


def _answered(source: str, error: HfHubHTTPError) -> RegistryError:
    from huggingface_hub import errors  # loaded already, or there were no such error

    match error:
        case errors.GatedRepoError():
            way_out = f"accept its terms on the Hub with your account, then {_TOKEN}"
            return HubDeniedError(f"{source} is gated", hint=way_out)
        case errors.RepositoryNotFoundError():
            way_out = f"check the name; if it is private, {_TOKEN}"
            return HubNotFoundError(f"no repository {source}, or it is private", hint=way_out)
        case errors.RevisionNotFoundError():
            return HubNotFoundError(f"no revision {source}", hint="name a branch, a tag or a commit of the repository")
        case errors.RemoteEntryNotFoundError():
            return HubNotFoundError(f"a file of {source} is gone", hint="try again; name a commit to be sure")
        case _:
            return _refused(source, error.response.status_code)


def _refused(source: str, status: int) -> RegistryError:
    if status in (401, 403):
        return HubDeniedError(f"the Hub does not let you read {source} (status {status})", hint=_TOKEN)
    if status == 429:
        return HubError(f"the Hub refused {source} for too many requests", hint=f"wait a while; {_TOKEN}")
    return HubError(f"the Hub answered {source} with status {status}", hint="try again later, and check HF_ENDPOINT")


def _unreachable(source: str) -> HubError:
    return HubError(
        f"no Hub answers for {source}",
        hint="check the network and HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to use its cache",
    )
