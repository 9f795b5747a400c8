"""A Sigstore of one's own: authority, certificate log, transparency log and the root of trust that names them.

What it makes is what Fulcio and Rekor make, so that sigstore's own code signs with it and verifies it; nothing is faked
but the two HTTP services. Formats: RFC 6962 for the certificate log, rekor's ``dsse`` entries, C2SP's signed notes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import jwt
import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from sigstore._internal.rekor.client import RekorClient
from sigstore.models import TransparencyLogEntry, TrustedRoot
from sigstore.sign import SigningContext
from sigstore_models.rekor.v1 import TransparencyLogEntry as EntryModel
from sigstore_models.trustroot.v1 import TrustedRoot as RootModel

PAYLOAD_TYPE = "application/vnd.in-toto+json"
LIFETIME = timedelta(minutes=10)

_ISSUER, _ISSUER_V2 = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_SCTS = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
_SIBLING = b"\x07" * 32
_SHA256 = ec.ECDSA(hashes.SHA256())


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def token_of(subject: str, issuer: str) -> str:
    """Return an OpenID token that nobody verifies but Fulcio, which is not there."""
    now = datetime.now(UTC)
    claims = {"aud": "sigstore", "sub": subject, "iss": issuer, "iat": now, "exp": now + timedelta(minutes=5)}
    return jwt.encode(claims, "0" * 32, algorithm="HS256")


@dataclass
class LocalSigstore:
    """One instance.

    Attributes:
        clock: What time it is for its authority and its log.
    """

    clock: object = None
    ca: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    ct_log: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    rekor: ec.EllipticCurvePrivateKey = field(default_factory=new_key)

    def __post_init__(self) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a sigstore of one's own")])
        public = self.ca.public_key()
        start = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(days=30)
        builder = (
            x509.CertificateBuilder(name, name, public, x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(_usage(key_cert_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )
        self.root = builder.sign(self.ca, hashes.SHA256())

    def now(self) -> datetime:
        return self.clock() if callable(self.clock) else datetime.now(UTC)

    @property
    def trusted_root(self) -> str:
        """Return what ``trusted_root.json`` says of this instance."""
        valid = {"start": _stamp(self.root.not_valid_before_utc)}

        def log(url: str, key: ec.EllipticCurvePrivateKey) -> dict[str, object]:
            public = {"rawBytes": _b64(_spki(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": valid}
            return {
                "baseUrl": url,
                "hashAlgorithm": "SHA2_256",
                "publicKey": public,
                "logId": {"keyId": _b64(_id(key))},
            }

        authority = {
            "subject": {"organization": "local", "commonName": "local"},
            "uri": "https://fulcio.example.org",
            "certChain": {"certificates": [{"rawBytes": _b64(_der(self.root))}]},
            "validFor": valid,
        }
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log("https://rekor.example.org", self.rekor)],
                "certificateAuthorities": [authority],
                "ctlogs": [log("https://ctfe.example.org", self.ct_log)],
                "timestampAuthorities": [],
            }
        )

    def certificate(
        self, key: ec.EllipticCurvePublicKey, subject: str, issuer: str, *, at: datetime | None = None
    ) -> x509.Certificate:
        """Return what Fulcio would give out for `subject`, with the promise of the certificate log in it."""
        start = (at or self.now()).replace(microsecond=0) - timedelta(seconds=1)
        san = x509.UniformResourceIdentifier(subject) if "://" in subject else x509.RFC822Name(subject)
        text = issuer.encode()
        builder = (
            x509.CertificateBuilder(self.root.subject, x509.Name([]), key, x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + LIFETIME)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca.public_key()), critical=False)
            .add_extension(x509.SubjectAlternativeName([san]), critical=True)
            .add_extension(x509.UnrecognizedExtension(_ISSUER, text), critical=False)
            .add_extension(x509.UnrecognizedExtension(_ISSUER_V2, b"\x0c" + bytes([len(text)]) + text), critical=False)
        )
        promised = self._sct(builder.sign(self.ca, hashes.SHA256()).tbs_certificate_bytes, start)
        return builder.add_extension(x509.UnrecognizedExtension(_SCTS, promised), critical=False).sign(
            self.ca, hashes.SHA256()
        )

    def _sct(self, precertificate: bytes, at: datetime) -> bytes:
        milliseconds = int(at.timestamp() * 1000)
        entry = hashlib.sha256(_spki(self.ca)).digest() + len(precertificate).to_bytes(3, "big") + precertificate
        signature = self.ct_log.sign(struct.pack("!BBQH", 0, 0, milliseconds, 1) + entry + b"\0\0", _SHA256)
        sct = b"\0" + _id(self.ct_log) + struct.pack("!QHBBH", milliseconds, 0, 4, 3, len(signature)) + signature
        listed = struct.pack("!HH", len(sct) + 2, len(sct)) + sct
        return b"\x04" + (bytes([len(listed)]) if len(listed) < 128 else b"\x81" + bytes([len(listed)])) + listed

    def entry(self, body: bytes, *, at: datetime | None = None) -> dict[str, object]:
        """Return what Rekor would answer to an entry: its place, the proof of it, and two signatures of the log."""
        log_id = _id(self.rekor)
        seconds = int((at or self.now()).timestamp())
        leaf = hashlib.sha256(b"\0" + body).digest()
        tree = hashlib.sha256(b"\1" + leaf + _SIBLING).digest()
        note = f"rekor.example.org - 1\n2\n{_b64(tree)}\n"
        signed = _b64(log_id[:4] + self.rekor.sign(note.encode(), _SHA256))
        promise = rfc8785.dumps({"body": _b64(body), "integratedTime": seconds, "logID": log_id.hex(), "logIndex": 0})
        held = json.loads(body)
        return {
            "logIndex": "0",
            "logId": {"keyId": _b64(log_id)},
            "kindVersion": {"kind": held["kind"], "version": held["apiVersion"]},
            "integratedTime": str(seconds),
            "inclusionPromise": {"signedEntryTimestamp": _b64(self.rekor.sign(promise, _SHA256))},
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": _b64(tree),
                "treeSize": "2",
                "hashes": [_b64(_SIBLING)],
                "checkpoint": {"envelope": f"{note}\n\u2014 rekor.example.org {signed}\n"},
            },
            "canonicalizedBody": _b64(body),
        }

    def bundle(
        self,
        payload: bytes,
        subject: str,
        issuer: str,
        *,
        at: datetime | None = None,
        logged_at: datetime | None = None,
        payload_type: str = PAYLOAD_TYPE,
    ) -> bytes:
        """Return the bundle of `payload`, signed by `subject` at `at` and logged then, or at `logged_at`."""
        key = new_key()
        certificate = self.certificate(key.public_key(), subject, issuer, at=at)
        signature = key.sign(_pae(payload_type, payload), _SHA256)
        pem = certificate.public_bytes(serialization.Encoding.PEM)
        spec = {
            "envelopeHash": {"algorithm": "sha256", "value": "0" * 64},
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            "signatures": [{"signature": _b64(signature), "verifier": _b64(pem)}],
        }
        body = rfc8785.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
        material = {
            "certificate": {"rawBytes": _b64(_der(certificate))},
            "tlogEntries": [self.entry(body, at=logged_at or at)],
        }
        envelope = {"payload": _b64(payload), "payloadType": payload_type, "signatures": [{"sig": _b64(signature)}]}
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
                "verificationMaterial": material,
                "dsseEnvelope": envelope,
            }
        ).encode()

    def services(self) -> SigningContext:
        """Return the context in which sigstore signs here: its own code, and this instance behind it."""
        return SigningContext(
            fulcio=SimpleNamespace(signing_cert=SimpleNamespace(post=self._issue)),
            rekor=_Log(self),
            trusted_root=TrustedRoot(RootModel.from_json(self.trusted_root)),
        )

    def _issue(self, request: x509.CertificateSigningRequest, token: object) -> object:
        certificate = self.certificate(request.public_key(), token.identity, token.issuer)
        return SimpleNamespace(cert=certificate, chain=[self.root])


class _Log(RekorClient):
    """Rekor's own client, which logs here."""

    def __init__(self, local: LocalSigstore) -> None:
        super().__init__("https://rekor.example.org")
        self._local = local

    def create_entry(self, request: dict[str, object]) -> TransparencyLogEntry:
        proposed = request["spec"]["proposedContent"]
        envelope = json.loads(proposed["envelope"])
        payload = base64.b64decode(envelope["payload"])
        spec = {
            "envelopeHash": {
                "algorithm": "sha256",
                "value": hashlib.sha256(proposed["envelope"].encode()).hexdigest(),
            },
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            "signatures": [
                {"signature": envelope["signatures"][0]["sig"], "verifier": proposed["verifiers"][0]},
            ],
        }
        body = rfc8785.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
        return TransparencyLogEntry(EntryModel.from_json(json.dumps(self._local.entry(body))))


def _pae(payload_type: str, payload: bytes) -> bytes:
    return b"DSSEv1 %d %s %d %s" % (len(payload_type), payload_type.encode(), len(payload), payload)


def _usage(**used: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: used.get(name, False) for name in names})


def _stamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.DER, form)


def _id(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(_spki(key)).digest()


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
