from __future__ import annotations

import pytest

from loractl_registry.model_card import ModelCard, parse_model_card, read_model_card


def test_card_gives_licence_base_and_data_sets():
    text = b"---\nlicense: mit\nauthor: ada\nbase_model: [acme/a, acme/b]\ndatasets: acme/tickets\n---\nText"

    assert parse_model_card(text) == ModelCard("mit", "ada", "acme/a", ("acme/tickets",))


def test_licence_of_another_kind_is_called_by_its_name():
    assert parse_model_card(b"---\nlicense: other\nlicense_name: acme-1.0\n---\n").licence == "acme-1.0"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"# Title", id="no-front-matter"),
        pytest.param(b"---\nlicense: mit\n", id="never-ends"),
        pytest.param(b"---\n[1, 2]\n---\n", id="a-list"),
        pytest.param(b"---\n: : :\n- x\n---\n", id="not-yaml"),
        pytest.param(b"---\nx: !!python/object/apply:os.system ['id']\n---\n", id="asks-for-code"),
        pytest.param(b"---\n\xff\xfe\n---\n", id="binary"),
        pytest.param(b"---\nlicense: 5\ndatasets: {a: b}\nbase_model: []\n---\n", id="wrong-types"),
        pytest.param(b'---\nlicense: "a\\nb"\n---\n', id="control-characters"),
        pytest.param(b"---\nx: 2020-99-99\n---\n", id="impossible-date"),
    ],
)
def test_card_without_use_says_nothing(text):
    assert parse_model_card(text) == ModelCard()


def test_link_is_not_read(tmp_path):
    (tmp_path / "secret").write_text("---\nlicense: mit\n---\n")
    (tmp_path / "README.md").symlink_to(tmp_path / "secret")

    assert read_model_card(tmp_path) == ModelCard()
