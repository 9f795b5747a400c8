"""The bill of materials: valid by the library's schema, the same every time, and with everything that is known."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from cyclonedx.exception import MissingOptionalDependencyException
from hypothesis import given, settings
from hypothesis import strategies as st

from loractl_registry import bom
from loractl_registry.bom import (
    AttachmentKind,
    BomAttachment,
    BomDataset,
    BomInvalidError,
    BomSubject,
    BomUnavailableError,
    check_bom,
    datasets_of,
    render_bom,
    validating,
)
from loractl_registry.records import (
    AdapterFacts,
    AdapterVersion,
    Base,
    ExpertLayout,
    FileEntry,
    Manifest,
    Provenance,
)
from loractl_registry.refs import VersionRef
from loractl_registry.stages import Stage

NOW = datetime(2026, 1, 31, 9, 0, tzinfo=UTC)
DIGEST = f"sha256:{'a' * 64}"
BASE_DIGEST = f"sha256:{'b' * 64}"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
MANIFEST = Manifest(
    (FileEntry("adapter_config.json", 600, DIGEST), FileEntry("adapter_model.safetensors", 9000, BASE_DIGEST))
)
PROVENANCE = Provenance(
    source=f"hf:acme/support-bot@{COMMIT}",
    commit=COMMIT,
    author="Ada",
    licence="apache-2.0",
    datasets=("acme/tickets", f"acme/chats@sha256:{'c' * 64}"),
    code_commit="deadbeef",
    note="second run",
    extra={"run": {"id": 7}, "lab": "west"},
)
FACTS = AdapterFacts(16, 32.0, ("experts", "q_proj"), ExpertLayout.FUSED, 12, "bfloat16", "acme/tiny-moe")
BASE = Base(
    name="tiny-moe",
    digest=BASE_DIGEST,
    path=Path("/srv/tiny-moe"),
    source=f"hf:acme/tiny-moe@{COMMIT}",
    licence="MIT",
    size_bytes=10**9,
    file_count=5,
    added_at=NOW,
    added_by="ada",
    config={"model_type": "qwen3_moe", "architectures": ["Qwen3MoeForCausalLM"]},
)
VERSION = AdapterVersion(
    ref=VersionRef("support-bot", 3),
    stage=Stage.APPROVED,
    digest=MANIFEST.digest,
    path=Path("/srv/store/x"),
    size_bytes=MANIFEST.size_bytes,
    base="tiny-moe",
    base_digest=BASE_DIGEST,
    facts=FACTS,
    provenance=PROVENANCE,
    added_at=NOW,
    added_by="ada",
)
ATTACHMENTS = (
    BomAttachment(AttachmentKind.FILE_SIGNATURE, DIGEST, "files, signed by ada (0c5c75e6a5d1c17d)"),
    BomAttachment(AttachmentKind.STATEMENT, BASE_DIGEST, "promotion to approved, signed by grace"),
    BomAttachment(AttachmentKind.EVIDENCE, f"sha256:{'d' * 64}", "eval: lm-eval"),
)
SUBJECT = BomSubject(VERSION, MANIFEST, BASE, datasets_of(PROVENANCE.datasets), ATTACHMENTS, NOW, "0.1.0")


def rendered(subject=SUBJECT):
    data = render_bom(subject)
    check_bom(data)
    return json.loads(data)


def named(held):
    return {each["name"]: each["value"] for each in held["properties"]}


def test_bill_of_a_full_version_is_valid_and_complete():
    held = rendered()
    adapter = held["metadata"]["component"]

    assert (held["bomFormat"], held["specVersion"]) == ("CycloneDX", "1.6")
    assert held["metadata"]["timestamp"] == "2026-01-31T09:00:00+00:00"
    assert (adapter["type"], adapter["name"], adapter["version"]) == ("machine-learning-model", "support-bot", "3")
    assert adapter["hashes"] == [{"alg": "SHA-256", "content": MANIFEST.digest.removeprefix("sha256:")}]
    assert adapter["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert adapter["authors"] == [{"name": "Ada"}]
    assert {each["name"] for each in adapter["components"]} == {"adapter_config.json", "adapter_model.safetensors"}
    properties = named(adapter)
    assert properties["loractl:stage"] == "approved"
    assert properties["loractl:code_commit"] == "deadbeef"
    assert properties["loractl:provenance:run"] == '{"id": 7}'
    assert properties["loractl:provenance:lab"] == "west"


def test_model_card_says_architecture_data_and_shape():
    held = rendered()
    card = held["metadata"]["component"]["modelCard"]
    data = {each["bom-ref"]: each for each in held["components"] if each["type"] == "data"}

    assert card["modelParameters"]["architectureFamily"] == "qwen3_moe"
    assert card["modelParameters"]["modelArchitecture"] == "Qwen3MoeForCausalLM"
    assert {each["ref"] for each in card["modelParameters"]["datasets"]} == data.keys()
    assert named(card)["loractl:rank"] == "16"
    assert sorted(each["name"] for each in data.values()) == ["acme/chats", "acme/tickets"]
    assert all(each["data"][0]["type"] == "dataset" for each in data.values())


def test_base_is_a_dependency_with_its_digest():
    held = rendered()
    base = next(each for each in held["components"] if each["bom-ref"] == "base:tiny-moe")
    depends = {each["ref"]: each.get("dependsOn", []) for each in held["dependencies"]}

    assert base["hashes"] == [{"alg": "SHA-256", "content": "b" * 64}]
    assert base["licenses"] == [{"license": {"id": "MIT"}}]
    assert "base:tiny-moe" in depends["support-bot@3"]
    assert len(depends["support-bot@3"]) == 3


def test_signatures_and_origin_are_references():
    references = rendered()["metadata"]["component"]["externalReferences"]
    by_type = {each["type"]: each for each in references}

    assert by_type["distribution"]["url"] == f"https://huggingface.co/acme/support-bot/tree/{COMMIT}"
    assert by_type["digital-signature"]["hashes"][0]["content"] == "a" * 64
    assert by_type["digital-signature"]["comment"].startswith("files, signed by ada")
    assert {"attestation", "evidence"} <= by_type.keys()


def test_the_same_records_give_the_same_bytes():
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_bom;"
        "sys.stdout.buffer.write(test_bom.render_bom(test_bom.SUBJECT))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script, str(Path(__file__).parent)],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]

    assert runs == [render_bom(SUBJECT)] * 2


def test_serial_number_follows_what_is_said_and_not_when():
    first = rendered()["serialNumber"]

    assert rendered(replace(SUBJECT, at=NOW + timedelta(days=1)))["serialNumber"] == first
    assert rendered(replace(SUBJECT, attachments=()))["serialNumber"] != first
    assert rendered(replace(SUBJECT, version=replace(VERSION, digest=DIGEST)))["serialNumber"] != first


def test_time_is_written_as_given():
    berlin = timezone(timedelta(hours=1))

    assert rendered(replace(SUBJECT, at=NOW.astimezone(berlin)))["metadata"]["timestamp"].startswith("2026-01-31T")


def test_bill_of_a_version_that_nobody_says_anything_of_is_valid():
    bare = replace(VERSION, base=None, base_digest=None, provenance=Provenance(source="/home/ada/out"))
    held = rendered(BomSubject(bare, MANIFEST, None, (), (), NOW, "0.1.0"))

    assert "components" not in held
    assert "externalReferences" not in held["metadata"]["component"]
    assert named(held["metadata"]["component"])["loractl:source"] == "/home/ada/out"


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("MIT OR Apache-2.0", {"expression": "MIT OR Apache-2.0"}),
        ("the usual", {"license": {"name": "the usual"}}),
        ("llama3.1", {"license": {"name": "llama3.1"}}),
    ],
)
def test_licences_are_identifiers_expressions_or_names(said, written):
    version = replace(VERSION, provenance=replace(PROVENANCE, licence=said))

    assert rendered(replace(SUBJECT, version=version))["metadata"]["component"]["licenses"] == [written]


def test_data_class_and_licence_of_a_data_set_are_kept():
    dataset = BomDataset("tickets", DIGEST, "CC-BY-4.0", "internal")
    held = rendered(replace(SUBJECT, datasets=(dataset,), base=None))

    assert held["components"][0]["data"] == [{"type": "dataset", "name": "tickets", "classification": "internal"}]
    assert held["components"][0]["licenses"] == [{"license": {"id": "CC-BY-4.0"}}]


def test_data_sets_are_named_once_and_may_have_a_digest():
    found = datasets_of(["a", f"b@sha256:{'c' * 64}", "a", "c@sha256:short"])

    assert found == (BomDataset("a"), BomDataset("b", f"sha256:{'c' * 64}"), BomDataset("c@sha256:short"))


@settings(max_examples=30, deadline=None)
@given(text=st.text(min_size=1, max_size=60))
def test_no_text_breaks_the_bill(text):
    provenance = Provenance(
        source=text, author=text, licence=text, datasets=(text,), note=text, extra={text: text, "list": [text]}
    )
    subject = BomSubject(
        replace(VERSION, provenance=provenance, added_by=text),
        MANIFEST,
        replace(BASE, source=text, licence=text, config={"model_type": text, "architectures": [text, 7]}),
        datasets_of((text,)),
        (BomAttachment(AttachmentKind.EVIDENCE, DIGEST, text),),
        NOW,
        "0.1.0",
    )

    rendered(subject)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        pytest.param(b"nonsense", "its beginning", id="not-json"),
        pytest.param(b'{"a":1,"a":1}', "its beginning", id="twice"),
        pytest.param(b"{}", r"\$", id="empty"),
        pytest.param(
            render_bom(SUBJECT).replace(b'"modelCard"', b'"modelKard"'), r"\$\.metadata\.component", id="card"
        ),
    ],
)
def test_what_is_no_bill_is_refused_with_its_place(data, place):
    with pytest.raises(BomInvalidError, match=place) as caught:
        check_bom(data)

    assert caught.value.hint


def test_a_missing_validator_is_named(monkeypatch):
    def refuse():
        raise MissingOptionalDependencyException

    monkeypatch.setattr(validating, "_validator", refuse)

    with pytest.raises(BomUnavailableError, match="json-validation"):
        check_bom(render_bom(SUBJECT))


@pytest.mark.parametrize("config", [{}, {"model_type": 7, "architectures": [7]}, {"architectures": "text"}])
def test_a_base_with_an_odd_config_has_no_architecture(config):
    held = rendered(replace(SUBJECT, base=replace(BASE, config=config)))

    assert held["metadata"]["component"]["modelCard"]["modelParameters"].keys() == {"task", "datasets"}


def test_every_exported_name_is_there():
    for name in bom.__all__:
        assert getattr(bom, name) is not None
