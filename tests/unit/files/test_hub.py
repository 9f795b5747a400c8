from __future__ import annotations

from pathlib import Path

import pytest
from support.files import COMMIT, FakeHub, FakeRepository, files_of

from loractl_registry.base_files import scan_base
from loractl_registry.errors import DeniedError, NotFoundError, RegistryError
from loractl_registry.hub import HubSource, fetch_base, fetched_adapter, parse_hub_source
from loractl_registry.hub_errors import (
    HubDeniedError,
    HubError,
    HubNotFoundError,
    HubOfflineError,
    InvalidHubSourceError,
)

CARD = b"---\nlicense: apache-2.0\nbase_model: acme/tiny-moe\ndatasets:\n- acme/tickets\n---\n# Support\n"
SOURCE = HubSource("acme/support")
TOKEN = "hf_secretsecretsecret"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


@pytest.fixture
def published(hub: FakeHub, adapter: Path) -> FakeRepository:
    extra = {"README.md": CARD, "training_args.bin": b"\x80\x02.", "checkpoint-5/optimizer.pt": b"PK\x03\x04"}
    hub.repositories["acme/support"] = FakeRepository({**files_of(adapter), **extra})
    return hub.repositories["acme/support"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("hf:acme/support", HubSource("acme/support"), id="default-branch"),
        pytest.param("hf:acme/support@main", HubSource("acme/support", "main"), id="branch"),
        pytest.param("hf:acme/support@refs/pr/1", HubSource("acme/support", "refs/pr/1"), id="pull-request"),
        pytest.param(f"hf:a.b/c-d_e@{COMMIT}", HubSource("a.b/c-d_e", COMMIT), id="commit"),
    ],
)
def test_source_is_parsed_and_printed_back(text, expected):
    assert parse_hub_source(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "hf:",
        "hf:support",
        "hf:a/b/c",
        "hf:../b",
        "hf:a/..",
        "hf:a/b@",
        "hf:a/b@x y",
        "hf:a/b@../c",
        "hf:a/b\n",
        "hf:-/b",
    ],
)
def test_malformed_source_is_refused(text):
    with pytest.raises(InvalidHubSourceError, match="invalid source"):
        parse_hub_source(text)


def test_adapter_arrives_as_the_same_bytes_and_nothing_else(published, adapter, scratch, progress):
    with fetched_adapter(SOURCE, scratch, progress) as fetched:
        assert files_of(fetched.folder) == {**files_of(adapter), "README.md": CARD}
        assert {path.name for path in fetched.folder.iterdir()} == set(files_of(fetched.folder))

    assert progress.count == progress.total > 0


def test_signature_of_the_files_is_fetched_with_them(published, adapter, scratch):
    published.files = {**published.files, "model.sig": b"{}"}

    with fetched_adapter(SOURCE, scratch) as fetched:
        assert (fetched.folder / "model.sig").read_bytes() == b"{}"


def test_adapter_is_removed_from_scratch_at_the_end(published, scratch):
    with pytest.raises(RuntimeError), fetched_adapter(SOURCE, scratch):
        raise RuntimeError

    assert list(scratch.iterdir()) == []


def test_adapter_can_be_ingested(published, scratch, store):
    with fetched_adapter(SOURCE, scratch) as fetched:
        ingested = store.ingest(fetched.folder)

    assert [file.path for file in ingested.manifest.files] == sorted(
        ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    )


def test_files_of_other_formats_are_never_asked_for(hub, published, scratch):
    with fetched_adapter(SOURCE, scratch):
        pass

    assert not [request for request in hub.requests if request.endswith((".bin", ".pt"))]


def test_provenance_holds_commit_author_and_card(published, scratch):
    with fetched_adapter(HubSource("acme/support", "main"), scratch) as fetched:
        found = fetched.provenance

    assert (found.source, found.commit) == (f"hf:acme/support@{COMMIT}", COMMIT)
    assert (found.author, found.licence, found.datasets) == ("acme", "apache-2.0", ("acme/tickets",))
    assert fetched.declared_base == "acme/tiny-moe"


def test_token_is_sent_and_opens_a_private_repository(hub, published, scratch, monkeypatch):
    published.token = TOKEN
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    with fetched_adapter(SOURCE, scratch):
        pass

    assert hub.tokens == {f"Bearer {TOKEN}"}


def _private(hub: FakeHub) -> None:
    hub.repositories["acme/support"].token = "another"


def _gated(hub: FakeHub) -> None:
    hub.repositories["acme/support"].is_gated = True


def _without_weights(hub: FakeHub) -> None:
    hub.repositories["acme/support"] = FakeRepository({"adapter_config.json": b"{}", "adapter_model.bin": b"\x80\x02."})


def _failing(status: int):
    def fail(hub: FakeHub) -> None:
        hub.failing_with = status

    return fail


@pytest.mark.parametrize(
    ("break_it", "error", "message"),
    [
        pytest.param(_private, HubNotFoundError, "or it is private", id="private"),
        pytest.param(_gated, HubDeniedError, "is gated", id="gated"),
        pytest.param(_without_weights, HubNotFoundError, "has no adapter_model.safetensors", id="only-pickles"),
        pytest.param(_failing(500), HubError, "status 500", id="server-error"),
        pytest.param(_failing(403), HubDeniedError, "status 403", id="forbidden"),
    ],
)
def test_refusal_of_the_hub_is_named_without_the_token(hub, published, scratch, monkeypatch, break_it, error, message):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    break_it(hub)

    with pytest.raises(error, match=message) as caught, fetched_adapter(SOURCE, scratch):
        pass

    assert caught.value.hint
    assert TOKEN not in f"{caught.value} {caught.value.hint}"
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        pytest.param(HubSource("acme/nothing"), "no repository hf:acme/nothing", id="repository"),
        pytest.param(HubSource("acme/support", "v9"), "no revision hf:acme/support@v9", id="revision"),
    ],
)
def test_missing_source_is_not_found(published, scratch, source, message):
    with pytest.raises(NotFoundError, match=message), fetched_adapter(source, scratch):
        pass


def test_unreachable_hub_is_named(hub, scratch, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(HubError, match="no Hub answers for hf:acme/support"), fetched_adapter(SOURCE, scratch):
        pass


def test_base_comes_from_the_cache_and_can_be_scanned(hub, base, progress):
    hub.repositories["acme/tiny"] = FakeRepository(
        {**files_of(base), "README.md": CARD, "modeling.py": b"x", "original/model.safetensors": b"x"}
    )

    fetched = fetch_base(HubSource("acme/tiny"), progress)
    scanned = scan_base(fetched.folder)

    assert {file.path for file in scanned.manifest.files} == set(files_of(base))
    assert (fetched.provenance.source, fetched.provenance.licence) == (f"hf:acme/tiny@{COMMIT}", "apache-2.0")
    assert progress.count == progress.total > 0


def test_base_is_not_downloaded_twice(hub, base):
    hub.repositories["acme/tiny"] = FakeRepository(files_of(base))
    fetch_base(HubSource("acme/tiny"))
    hub.requests.clear()

    fetch_base(HubSource("acme/tiny"))

    assert not [request for request in hub.requests if request.startswith("GET") and "/resolve/" in request]


def test_base_without_safetensors_is_refused(hub):
    hub.repositories["acme/tiny"] = FakeRepository({"config.json": b"{}", "pytorch_model.bin": b"\x80\x02."})

    with pytest.raises(HubNotFoundError, match=r"no \.safetensors weights"):
        fetch_base(HubSource("acme/tiny"))


def test_offline_mode_answers_from_the_cache(hub, base, adapter, scratch, monkeypatch):
    hub.repositories["acme/tiny"] = FakeRepository({**files_of(base), **files_of(adapter)})
    fetch_base(HubSource("acme/tiny"))
    hub.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    assert fetch_base(HubSource("acme/tiny")).provenance.commit == COMMIT
    with pytest.raises(HubOfflineError), fetched_adapter(HubSource("acme/nothing"), scratch):
        pass
    assert hub.requests == []


def test_offline_adapter_arrives_as_regular_files(hub, published, adapter, scratch, monkeypatch):
    from huggingface_hub import hf_hub_download

    published.files = {**published.files, "model.sig": b"{}"}
    for name in (*files_of(adapter), "model.sig"):
        hf_hub_download("acme/support", name, endpoint=hub.url)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    with fetched_adapter(SOURCE, scratch) as fetched:
        assert files_of(fetched.folder) == {**files_of(adapter), "model.sig": b"{}"}
        assert not [path for path in fetched.folder.iterdir() if path.is_symlink()]
    assert fetched.provenance.commit == COMMIT


def test_every_error_is_a_registry_error():
    assert issubclass(HubDeniedError, DeniedError)
    assert issubclass(HubError, RegistryError)
