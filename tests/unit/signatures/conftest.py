import json
from base64 import b64decode, b64encode
from hashlib import sha256

import pytest

from loractl_registry.hashing import hash_files
from loractl_registry.records import Manifest
from loractl_registry.signatures import sign_files
from loractl_registry.trust import create_key, sign_envelope

NAMES = ("README.md", "adapter_config.json", "adapter_model.safetensors")
PAYLOAD_TYPE = "application/vnd.in-toto+json"


class Adapter:
    """A folder with the files of an adapter, which only need to be bytes here."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        for name in NAMES:
            (folder / name).write_bytes(name.encode() * 50)
        self.manifest = self.hashed()

    def hashed(self):
        return Manifest(hash_files(self.folder, [name for name in NAMES if (self.folder / name).exists()]))

    def path(self, name):
        return self.folder / name


class Bundles:
    """Takes bundles apart and puts them together wrongly."""

    @staticmethod
    def payload(bundle):
        return json.loads(b64decode(json.loads(bundle)["dsseEnvelope"]["payload"]))

    @staticmethod
    def changed(bundle, **fields):
        return json.dumps({**json.loads(bundle), **fields}).encode()

    @staticmethod
    def with_envelope(bundle, **fields):
        held = json.loads(bundle)
        held["dsseEnvelope"] |= fields
        return json.dumps(held).encode()

    @classmethod
    def with_payload(cls, bundle, payload):
        text = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        return cls.with_envelope(bundle, payload=b64encode(text).decode())

    @classmethod
    def signed(cls, bundle, payload, key):
        """The bundle with another payload that the key has really signed."""
        text = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        envelope = json.loads(sign_envelope(text, PAYLOAD_TYPE, key))
        signatures = [{"sig": envelope["signatures"][0]["sig"], "keyid": ""}]
        return cls.with_envelope(bundle, payload=envelope["payload"], signatures=signatures)

    @staticmethod
    def with_resources(payload, resources):
        digests = b"".join(bytes.fromhex(each["digest"]) for each in resources)
        subject = {**payload["subject"][0], "digest": {"sha256": sha256(digests).hexdigest()}}
        return {**payload, "subject": [subject], "predicate": {**payload["predicate"], "resources": resources}}


@pytest.fixture(scope="session")
def key():
    return create_key()


@pytest.fixture(scope="session")
def other_key():
    return create_key()


@pytest.fixture
def adapter(tmp_path):
    return Adapter(tmp_path / "support-bot")


@pytest.fixture(scope="session")
def bundles():
    return Bundles


@pytest.fixture
def bundle(adapter, key):
    return sign_files(adapter.folder, adapter.manifest, key)


@pytest.fixture(scope="session")
def new_adapter():
    return Adapter
