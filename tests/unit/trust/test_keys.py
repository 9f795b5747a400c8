"""Identity keys: what is written, what is refused, and that no secret is ever shown."""

import os
import shutil
import subprocess
import traceback
from base64 import b64encode, encodebytes
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from loractl_registry.file_errors import UnreadableError
from loractl_registry.refusals import FileExistsRefusedError
from loractl_registry.trust import (
    create_key,
    load_key,
    load_public_key,
    parse_key,
    parse_public_key,
    passphrase_from,
    public_path_of,
    save_key,
)
from loractl_registry.trust.errors import (
    KeyCurveError,
    KeyDamagedError,
    KeyNotFoundError,
    KeyPermissionsError,
    KeyTypeError,
    PassphraseError,
    PassphraseNeededError,
    PassphraseWrongError,
    TrustError,
)
from loractl_registry.trust.keys import MAX_KEY_BYTES

SECRET = "correct horse battery staple"
KEY = create_key()
PLAIN = KEY.private_pem()
ENCRYPTED = KEY.private_pem(lambda: SECRET)


def secret():
    return SECRET


def pkcs8(key):
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def spki(key):
    return key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ada.key"


@pytest.mark.parametrize("passphrase", [None, secret], ids=["plain", "encrypted"])
def test_key_is_read_back_as_it_was_saved(path, passphrase):
    save_key(KEY, path, passphrase=passphrase)

    assert load_key(path, passphrase=passphrase).public == KEY.public
    assert load_public_key(public_path_of(path)) == KEY.public


def test_files_have_their_modes_whatever_the_umask(path):
    before = os.umask(0)
    try:
        save_key(KEY, path)
    finally:
        os.umask(before)

    assert (path.stat().st_mode & 0o777, public_path_of(path).stat().st_mode & 0o777) == (0o600, 0o644)
    assert sorted(each.name for each in path.parent.iterdir()) == ["ada.key", "ada.key.pub"]


def test_key_id_is_the_digest_of_the_public_key(path):
    der = serialization.load_pem_public_key(KEY.public.pem.encode()).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)

    assert KEY.public.key_id == digest.finalize().hex()


@pytest.mark.parametrize("taken", ["ada.key", "ada.key.pub"])
def test_no_key_is_overwritten(path, taken):
    (path.parent / taken).write_text("mine")

    with pytest.raises(FileExistsRefusedError):
        save_key(KEY, path)

    assert [(each.name, each.read_text()) for each in path.parent.iterdir()] == [(taken, "mine")]


def test_dangling_link_is_not_followed(path):
    path.symlink_to(path.parent / "elsewhere")

    with pytest.raises(FileExistsRefusedError):
        save_key(KEY, path)

    assert not (path.parent / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o777, 0o610, 0o602])
def test_open_permissions_are_refused_with_the_chmod(path, mode):
    save_key(KEY, path)
    path.chmod(mode)

    with pytest.raises(KeyPermissionsError, match=f"mode is {mode:04o}") as caught:
        load_key(path)

    assert caught.value.hint == f"run: chmod 600 {path}"


def test_tighter_permissions_are_taken(path):
    save_key(KEY, path)
    path.chmod(0o400)

    assert load_key(path).public == KEY.public


def test_missing_key_is_not_found(path):
    with pytest.raises(KeyNotFoundError, match="no key at"):
        load_key(path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["fifo", "folder"])
def test_what_is_no_file_is_refused_without_waiting(path, make):
    make(path)

    with pytest.raises(KeyDamagedError, match="no regular file"):
        load_key(path)


@pytest.mark.parametrize("pem", [PLAIN, ENCRYPTED], ids=["plain", "encrypted"])
def test_key_cut_at_any_byte_is_damaged(pem):
    for end in range(len(pem) - 1):
        with pytest.raises(KeyDamagedError):
            parse_key(pem[:end], source="key", passphrase=secret)


def test_public_key_cut_at_any_byte_is_damaged():
    pem = KEY.public.pem.encode()

    for end in range(len(pem) - 1):
        with pytest.raises(KeyDamagedError):
            parse_public_key(pem[:end], source="key")


def test_flipped_bit_never_makes_another_key():
    for index in range(len(PLAIN) - 1):
        for bit in range(8):
            damaged = bytearray(PLAIN)
            damaged[index] ^= 1 << bit
            with suppress(TrustError):
                assert parse_key(bytes(damaged), source="key").public == KEY.public


def test_body_cut_at_a_line_is_not_taken_for_a_wrong_passphrase():
    lines = ENCRYPTED.splitlines(keepends=True)

    with pytest.raises(KeyDamagedError, match="cut off"):
        parse_key(b"".join([*lines[:-2], lines[-1]]), source="key", passphrase=secret)


@given(st.binary(max_size=200))
def test_noise_is_damaged(noise):
    for parse in (parse_key, parse_public_key):
        with pytest.raises(KeyDamagedError):
            parse(noise, source="key")


@pytest.mark.parametrize(
    "der", [b"\x30\x00", b"\x30\x03\x02\x01\x05", b"\x04\x00", b"\x30", b"\x30\x84\xff\xff\xff\xff"]
)
def test_pem_around_something_else_is_damaged(der):
    for parse, label in ((parse_key, b"PRIVATE KEY"), (parse_public_key, b"PUBLIC KEY")):
        pem = b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label, b64encode(der), label)
        with pytest.raises(KeyDamagedError):
            parse(pem, source="key")


def test_huge_key_is_damaged():
    with pytest.raises(KeyDamagedError, match="larger than"):
        parse_key(PLAIN + b" " * MAX_KEY_BYTES, source="key")


def test_two_keys_in_one_file_are_damaged():
    with pytest.raises(KeyDamagedError, match="one whole PEM block"):
        parse_key(PLAIN + PLAIN, source="key")


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1(), ec.SECP256K1()], ids=lambda curve: curve.name)
def test_other_curves_are_refused_by_name(curve):
    key = ec.generate_private_key(curve)

    with pytest.raises(KeyCurveError, match=curve.name):
        parse_key(pkcs8(key), source="key")
    with pytest.raises(KeyCurveError, match=curve.name):
        parse_public_key(spki(key), source="key")


@pytest.mark.parametrize(
    ("key", "kind"),
    [(ed25519.Ed25519PrivateKey.generate(), "Ed25519"), (rsa.generate_private_key(65537, 2048), "RSA")],
    ids=["ed25519", "rsa"],
)
def test_other_kinds_of_keys_are_refused_by_name(key, kind):
    for parse, pem in ((parse_key, pkcs8(key)), (parse_public_key, spki(key))):
        with pytest.raises(KeyTypeError, match=f"{kind} key"):
            parse(pem, source="key")


def test_old_private_format_is_refused_with_the_way_to_convert():
    private = serialization.load_pem_private_key(PLAIN, None)
    old = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )

    with pytest.raises(KeyTypeError, match="EC PRIVATE KEY") as caught:
        parse_key(old, source="key")

    assert "openssl pkcs8 -topk8" in caught.value.hint


def test_public_and_private_parts_are_not_taken_for_each_other():
    with pytest.raises(KeyTypeError, match="it is a public key"):
        parse_key(KEY.public.pem.encode(), source="key")
    for pem in (PLAIN, ENCRYPTED):
        with pytest.raises(KeyTypeError, match="it is a private key"):
            parse_public_key(pem, source="key")
    with pytest.raises(KeyTypeError, match="CERTIFICATE"):
        parse_public_key(b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----", source="key")


def test_compressed_point_is_the_same_key():
    public = serialization.load_pem_public_key(KEY.public.pem.encode())
    point = public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    der = bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point
    pem = b"-----BEGIN PUBLIC KEY-----\n" + encodebytes(der) + b"-----END PUBLIC KEY-----\n"

    assert parse_public_key(pem, source="key") == KEY.public


def test_encrypted_key_needs_a_passphrase():
    with pytest.raises(PassphraseNeededError) as caught:
        parse_key(ENCRYPTED, source="key")

    assert caught.value.hint == "set LORACTL_IDENTITY_PASSPHRASE"


@pytest.mark.parametrize("wrong", ["", "Correct horse battery staple", SECRET + " ", "\0"])
def test_wrong_passphrase_is_told_from_damage(wrong):
    with pytest.raises(PassphraseWrongError):
        parse_key(ENCRYPTED, source="key", passphrase=lambda: wrong)


def test_passphrase_is_asked_for_only_when_needed():
    def refuse():
        raise AssertionError

    assert parse_key(PLAIN, source="key", passphrase=refuse).public == KEY.public


@pytest.mark.parametrize("bad", ["", "x" * 1024])
def test_unusable_passphrase_is_refused_before_anything_is_written(path, bad):
    with pytest.raises(PassphraseError):
        save_key(KEY, path, passphrase=lambda: bad)

    assert list(path.parent.iterdir()) == []


def test_passphrase_comes_from_the_environment():
    assert passphrase_from({"LORACTL_IDENTITY_PASSPHRASE": SECRET})() == SECRET
    assert passphrase_from({"OTHER": SECRET}, "OTHER")() == SECRET
    assert passphrase_from({}) is None
    assert passphrase_from({"LORACTL_IDENTITY_PASSPHRASE": ""}) is None


def test_no_secret_is_in_a_message_or_a_repr():
    wrong = "hunter2-hunter2"
    told = [repr(KEY), str(KEY)]
    for pem, passphrase in ((ENCRYPTED, lambda: wrong), (ENCRYPTED[:-40], secret), (PLAIN[:-40], None)):
        try:
            parse_key(pem, source="key", passphrase=passphrase)
        except TrustError as error:
            told += [repr(error), str(error.hint), "".join(traceback.format_exception(error))]
    body = PLAIN.decode().splitlines()[1]

    assert len(told) > 10
    for text in told:
        assert SECRET not in text
        assert wrong not in text
        assert body not in text
    assert KEY.public.key_id in repr(KEY)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_key_that_openssl_encrypted_with_scrypt_is_read(path):
    save_key(KEY, path)
    command = [
        "openssl",
        "pkcs8",
        "-topk8",
        "-scrypt",
        "-in",
        path,
        "-out",
        f"{path}.new",
        "-passout",
        f"pass:{SECRET}",
    ]
    subprocess.run(command, check=True, capture_output=True)

    assert load_key(path.with_name("ada.key.new"), passphrase=secret).public == KEY.public


def test_signature_is_ecdsa_over_sha256():
    public = serialization.load_pem_public_key(KEY.public.pem.encode())

    public.verify(KEY.sign(b"data"), b"data", ec.ECDSA(hashes.SHA256()))


def test_unreadable_key_is_said(path, monkeypatch):
    save_key(KEY, path)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UnreadableError, match="may not read"):
        load_key(path)
