"""A signature that lies beside the files of an adapter, by its author."""

import os

import pytest
from model_signing import hashing, signing

from loractl_registry.signatures import BundleError, find_shipped, verify_shipped, verify_shipped_again
from loractl_registry.signatures import errors as refusals

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def sign(key, tmp_path):
    """Sign a folder as its author would: with model-signing's own command line's defaults."""

    def sign(folder, *ignored):
        (tmp_path / "key.pem").write_bytes(key.private_pem())
        signer = signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key.pem")
        signer.set_hashing_config(hashing.Config().set_ignored_paths(paths=["model.sig", *ignored]))
        signer.sign(folder, folder / "model.sig")
        return find_shipped(folder)

    return sign


def test_no_signature_is_found_where_none_is(adapter):
    assert find_shipped(adapter.folder) is None


def test_shipped_signature_verifies_at_add_and_from_the_store(adapter, sign, key, other_key):
    adapter.path("tokenizer.json").write_text("{}")
    shipped = sign(adapter.folder)

    found = verify_shipped(adapter.folder, adapter.manifest, shipped, [other_key.public, key.public])

    assert (found.signer, found.name, found.not_taken) == (key.public.key_id, "support-bot", ("tokenizer.json",))
    assert verify_shipped_again(adapter.manifest, shipped.bundle.data, [key.public]) == found


def test_signed_files_that_nobody_takes_may_be_missing(adapter, sign, key):
    adapter.path("tokenizer.json").write_text("{}")
    shipped = sign(adapter.folder)
    adapter.path("tokenizer.json").unlink()

    assert verify_shipped(adapter.folder, adapter.manifest, shipped, [key.public]).not_taken == ("tokenizer.json",)


def test_a_signed_file_that_changed_is_refused_even_if_nobody_takes_it(adapter, sign, key):
    adapter.path("tokenizer.json").write_text("{}")
    shipped = sign(adapter.folder)
    adapter.path("tokenizer.json").write_text("[]")

    with pytest.raises(refusals.SignedDigestError, match=r"tokenizer\.json"):
        verify_shipped(adapter.folder, adapter.manifest, shipped, [key.public])


@pytest.mark.parametrize("name", ["README.md", "adapter_config.json", WEIGHTS])
def test_a_changed_file_is_refused(name, adapter, sign, key):
    shipped = sign(adapter.folder)
    adapter.path(name).write_bytes(b"changed")

    with pytest.raises(refusals.SignedDigestError, match=name):
        verify_shipped(adapter.folder, adapter.hashed(), shipped, [key.public])


def test_a_model_card_that_was_signed_and_removed_is_refused(adapter, sign, key):
    shipped = sign(adapter.folder)
    adapter.path("README.md").unlink()

    for verify in (
        lambda: verify_shipped(adapter.folder, adapter.hashed(), shipped, [key.public]),
        lambda: verify_shipped_again(adapter.hashed(), shipped.bundle.data, [key.public]),
    ):
        with pytest.raises(refusals.MissingSignedFileError, match=r"README\.md"):
            verify()


def test_files_that_vanished_since_they_were_hashed_are_named(adapter, sign, key):
    shipped = sign(adapter.folder)
    adapter.path(WEIGHTS).unlink()

    with pytest.raises(refusals.MissingSignedFileError, match=WEIGHTS):
        verify_shipped(adapter.folder, adapter.manifest, shipped, [key.public])


@pytest.mark.parametrize("name", [".git", "z"])
def test_an_unsigned_folder_is_refused(name, adapter, sign, key):
    shipped = sign(adapter.folder)
    adapter.path(name).mkdir()

    with pytest.raises(refusals.UnsignedFileError) as caught:
        verify_shipped(adapter.folder, adapter.manifest, shipped, [key.public])
    assert caught.value.files == (f"{name}/",)


def test_weights_that_the_author_left_out_are_refused(adapter, sign, key):
    shipped = sign(adapter.folder, WEIGHTS)

    with pytest.raises(refusals.IgnoredFileError, match=WEIGHTS):
        verify_shipped(adapter.folder, adapter.manifest, shipped, [key.public])


def test_a_folder_with_everything_left_out_is_refused(adapter, sign, key):
    shipped = sign(adapter.folder, ".")

    with pytest.raises(BundleError, match="1 to"):
        verify_shipped(adapter.folder, adapter.manifest, shipped, [key.public])


def test_a_stranger_is_refused(adapter, sign, other_key):
    with pytest.raises(refusals.UnknownFileSignerError):
        verify_shipped(adapter.folder, adapter.manifest, sign(adapter.folder), [other_key.public])


def test_an_author_may_call_the_folder_anything(adapter, sign, key):
    shipped = sign(adapter.folder)
    renamed = adapter.folder.rename(adapter.folder.with_name("download"))

    assert verify_shipped(renamed, adapter.manifest, shipped, [key.public]).name == "support-bot"


def test_a_malformed_signature_is_refused_when_it_is_found(adapter):
    adapter.path("model.sig").write_bytes(b"not a signature")

    with pytest.raises(BundleError, match="not JSON"):
        find_shipped(adapter.folder)


def test_a_signature_behind_a_link_or_a_pipe_is_refused(adapter, tmp_path):
    adapter.path("model.sig").symlink_to(tmp_path / "nowhere")
    with pytest.raises(refusals.UnsignableFileError, match="symbolic link"):
        find_shipped(adapter.folder)

    adapter.path("model.sig").unlink()
    os.mkfifo(adapter.path("model.sig"))
    with pytest.raises(refusals.UnsignableFileError, match="not a regular file"):
        find_shipped(adapter.folder)
