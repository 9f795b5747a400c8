"""Our own signatures: exactly the files of the manifest, by a key that is trusted, where they were signed."""

import json
import os
from base64 import b64decode, b64encode

import pytest
from model_signing import hashing, signing, verifying

from loractl_registry.errors import RegistryError
from loractl_registry.records import FileEntry, Manifest
from loractl_registry.signatures import (
    BundleError,
    SignatureKind,
    SignedFilesError,
    comparing,
    sign_files,
    verify_files,
    verify_files_again,
)
from loractl_registry.signatures import errors as refusals
from loractl_registry.signatures.verifying import hint_of

WEIGHTS = "adapter_model.safetensors"
VERIFY = [pytest.param(verify_files, id="ours"), pytest.param(verify_files_again, id="with-model-signing")]


@pytest.mark.parametrize("verify", VERIFY)
def test_signed_files_verify_and_name_their_signer(verify, adapter, bundle, key, other_key):
    found = verify(adapter.folder, adapter.manifest, bundle, [other_key.public, key.public])

    assert (found.kind, found.signer, found.name) == (SignatureKind.KEY, key.public.key_id, "support-bot")
    assert found.digest.startswith("sha256:")
    assert found.not_taken == ()


def test_signature_verifies_with_model_signing_alone(adapter, bundle, key, tmp_path):
    (tmp_path / "model.sig").write_bytes(bundle)
    (tmp_path / "key.pub").write_text(key.public.pem)

    verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "key.pub").verify(
        adapter.folder, tmp_path / "model.sig"
    )


def test_files_of_subfolders_are_signed_by_their_path(adapter, key):
    (adapter.folder / "a" / "b").mkdir(parents=True)
    path = adapter.folder / "a" / "b" / "c.json"
    path.write_text("{}")
    entry = FileEntry("a/b/c.json", 2, "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a")
    manifest = Manifest((*adapter.manifest.files, entry))

    bundle = sign_files(adapter.folder, manifest, key)

    assert verify_files_again(adapter.folder, manifest, bundle, [key.public]).signer == key.public.key_id
    path.rename(path.with_name("d.json"))
    with pytest.raises(refusals.UnsignedFileError, match=r"a/b/d\.json"):
        verify_files(adapter.folder, manifest, bundle, [key.public])


def test_swapped_weights_are_refused(adapter, bundle, key):
    adapter.path(WEIGHTS).write_bytes(b"X" * adapter.path(WEIGHTS).stat().st_size)

    with pytest.raises(refusals.SignedDigestError, match=WEIGHTS) as caught:
        verify_files(adapter.folder, adapter.hashed(), bundle, [key.public])

    assert caught.value.files == (WEIGHTS,)
    with pytest.raises(refusals.SigningLibraryError, match=WEIGHTS):
        verify_files_again(adapter.folder, adapter.manifest, bundle, [key.public])


def test_weights_of_another_size_than_the_manifest_says_are_refused(adapter, bundle, key):
    adapter.path(WEIGHTS).write_bytes(b"X")

    with pytest.raises(refusals.SignedDigestError, match="1 bytes"):
        verify_files(adapter.folder, adapter.manifest, bundle, [key.public])


def test_swapped_weights_that_the_signer_ignored_verify_with_model_signing_and_not_here(adapter, key, tmp_path):
    (tmp_path / "key.pem").write_bytes(key.private_pem())
    (tmp_path / "key.pub").write_text(key.public.pem)
    signer = signing.Config().use_elliptic_key_signer(private_key=tmp_path / "key.pem")
    signer.set_hashing_config(hashing.Config().set_ignored_paths(paths=[WEIGHTS]))
    signer.sign(adapter.folder, tmp_path / "model.sig")
    adapter.path(WEIGHTS).write_bytes(b"anything")
    strict = hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False)
    library = verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "key.pub").set_hashing_config(strict)

    library.verify(adapter.folder, tmp_path / "model.sig")

    with pytest.raises(refusals.IgnoredFileError, match=WEIGHTS) as caught:
        verify_files(adapter.folder, adapter.hashed(), (tmp_path / "model.sig").read_bytes(), [key.public])
    assert caught.value.files == (WEIGHTS,)


def test_a_file_that_is_not_signed_is_refused(adapter, bundle, key):
    manifest = Manifest((*adapter.manifest.files, FileEntry("z.json", 2, f"sha256:{'0' * 64}")))

    with pytest.raises(refusals.UnsignedFileError, match=r"z\.json"):
        verify_files(adapter.folder, manifest, bundle, [key.public])


def test_a_signed_file_that_is_left_out_is_refused(adapter, bundle, key):
    adapter.path("README.md").unlink()

    with pytest.raises(refusals.MissingSignedFileError, match=r"README\.md"):
        verify_files(adapter.folder, adapter.hashed(), bundle, [key.public])
    with pytest.raises(refusals.MissingSignedFileError, match=r"README\.md"):
        verify_files(adapter.folder, adapter.manifest, bundle, [key.public])


@pytest.mark.parametrize(
    ("make", "named"),
    [
        pytest.param(lambda folder: (folder / ".git").mkdir(), ".git/", id="git"),
        pytest.param(lambda folder: (folder / ".gitattributes").write_text(""), ".gitattributes", id="gitattributes"),
        pytest.param(lambda folder: (folder / "z.json").write_text(""), "z.json", id="file"),
        pytest.param(lambda folder: (folder / "a").mkdir(), "a/", id="folder"),
    ],
)
def test_what_lies_beside_the_signed_files_is_refused(make, named, adapter, bundle, key):
    make(adapter.folder)

    with pytest.raises(refusals.UnsignedFileError) as caught:
        verify_files(adapter.folder, adapter.manifest, bundle, [key.public])
    assert caught.value.files == (named,)
    with pytest.raises(refusals.UnsignedFileError):
        sign_files(adapter.folder, adapter.manifest, key)


def test_a_link_is_refused(adapter, bundle, key, tmp_path):
    adapter.path(WEIGHTS).rename(tmp_path / "elsewhere")
    adapter.path(WEIGHTS).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(refusals.UnsignableFileError, match="symbolic link"):
        verify_files(adapter.folder, adapter.manifest, bundle, [key.public])


def test_a_device_is_refused(adapter, bundle, key):
    os.mkfifo(adapter.path("pipe"))

    with pytest.raises(refusals.UnsignableFileError, match="not a regular file"):
        verify_files(adapter.folder, adapter.manifest, bundle, [key.public])


def test_a_folder_with_too_much_in_it_is_refused(adapter, bundle, key, monkeypatch):
    monkeypatch.setattr(comparing, "MAX_FILES", 2)

    with pytest.raises(refusals.UnsignedFileError):
        verify_files(adapter.folder, adapter.manifest, bundle, [key.public])


def test_a_renamed_folder_is_refused(adapter, bundle, key):
    renamed = adapter.folder.rename(adapter.folder.with_name("sales-bot"))

    with pytest.raises(refusals.RenamedFolderError, match="support-bot") as caught:
        verify_files(renamed, adapter.manifest, bundle, [key.public])
    assert (caught.value.signed, caught.value.found) == ("support-bot", "sales-bot")


def test_signature_of_other_files_is_refused(adapter, key, new_adapter, tmp_path):
    (tmp_path / "other").mkdir()
    other = new_adapter(tmp_path / "other" / "support-bot")
    other.path(WEIGHTS).write_bytes(b"other")

    with pytest.raises(refusals.SignedDigestError):
        verify_files(adapter.folder, adapter.manifest, sign_files(other.folder, other.hashed(), key), [key.public])


def test_unknown_signer_is_refused(adapter, bundle, other_key):
    for keys in ([], [other_key.public]):
        with pytest.raises(refusals.UnknownFileSignerError):
            verify_files(adapter.folder, adapter.manifest, bundle, keys)


def test_a_hint_that_names_another_key_does_not_make_it_sign(adapter, bundle, other_key, bundles):
    material = {"publicKey": {"hint": hint_of(other_key.public)}, "tlogEntries": []}
    forged = bundles.changed(bundle, verificationMaterial=material)

    with pytest.raises(refusals.FileSignatureInvalidError):
        verify_files(adapter.folder, adapter.manifest, forged, [other_key.public])


def test_a_signature_without_hint_is_tried_with_every_key(adapter, bundle, key, other_key, bundles):
    old = bundles.changed(bundle, verificationMaterial={"publicKey": {}, "tlogEntries": []})

    assert verify_files(adapter.folder, adapter.manifest, old, [other_key.public, key.public]).signer == (
        key.public.key_id
    )
    with pytest.raises(refusals.UnknownFileSignerError, match="does not name"):
        verify_files(adapter.folder, adapter.manifest, old, [other_key.public])


def test_a_changed_payload_is_refused(adapter, bundle, key, bundles):
    payload = bundles.payload(bundle)
    payload["subject"][0]["name"] = "sales-bot"

    with pytest.raises(refusals.FileSignatureInvalidError):
        verify_files(adapter.folder, adapter.manifest, bundles.with_payload(bundle, payload), [key.public])


@pytest.mark.parametrize("at", [0, 1, 20, -1])
def test_a_changed_signature_is_refused(at, adapter, bundle, key, bundles):
    held = json.loads(bundle)["dsseEnvelope"]["signatures"][0]
    data = bytearray(b64decode(held["sig"]))
    data[at] ^= 1
    changed = bundles.with_envelope(bundle, signatures=[{**held, "sig": b64encode(data).decode()}])

    with pytest.raises(refusals.FileSignatureInvalidError):
        verify_files(adapter.folder, adapter.manifest, changed, [key.public])


def test_signing_refuses_files_that_are_not_those_of_the_manifest(adapter, key):
    adapter.path(WEIGHTS).write_bytes(b"X" * adapter.path(WEIGHTS).stat().st_size)

    with pytest.raises(refusals.SignedDigestError, match=WEIGHTS):
        sign_files(adapter.folder, adapter.manifest, key)


def test_a_key_held_by_an_agent_signs(adapter, key):
    class Agent:
        public = key.public

        def sign(self, data):
            return key.sign(data)

    bundle = sign_files(adapter.folder, adapter.manifest, Agent())

    assert verify_files(adapter.folder, adapter.manifest, bundle, [key.public]).signer == key.public.key_id


def test_a_missing_folder_is_a_registry_error(adapter, bundle, key, tmp_path):
    with pytest.raises(RegistryError):
        verify_files(tmp_path / "nowhere", adapter.manifest, bundle, [key.public])


def test_every_refusal_says_what_and_a_way_out():
    samples = [
        refusals.BundleError("x"),
        refusals.SignedPayloadError("x"),
        refusals.UnknownFileSignerError("key x"),
        refusals.FileSignatureInvalidError("ab"),
        refusals.WrongSignatureKindError("a certificate", "try"),
        refusals.UnsignedFileError(["b", "a"]),
        refusals.IgnoredFileError(["a"]),
        refusals.MissingSignedFileError(["a"]),
        refusals.SignedDigestError("a", "sha256:aa", "sha256:bb"),
        refusals.UnsignableFileError("a", "a symbolic link"),
        refusals.RenamedFolderError("a", "b"),
        refusals.SigningLibraryError("x"),
        refusals.SigningUnavailableError("OpenSSL"),
        refusals.KeylessInvalidError("a@b", "x"),
    ]

    assert all(each.hint and str(each) for each in samples)
    assert len({each.code for each in samples}) == len(samples)
    assert "'a' (and 1 more)" in str(samples[5])
    assert all(issubclass(each, SignedFilesError) for each in (type(samples[5]), type(samples[9])))
    assert issubclass(refusals.SignedPayloadError, BundleError)
