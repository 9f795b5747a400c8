"""Bases are admitted and withdrawn by signed statements, under the policy's half about bases."""

import shutil
import sqlite3
from importlib.metadata import PackageNotFoundError

import pytest
from support.registry import write_adapter, write_base
from support.tampering import REBIND, made_older, run_sql

from loractl_registry import Ref, Registry, Stage
from loractl_registry.ledger import engines
from loractl_registry.ledger.admissions import admissions_of
from loractl_registry.ledger.chains import verified_chain
from loractl_registry.ledger.errors import BaseDeniedError, BaseDisagreementError, EngineDeniedError, NoIdentityError
from loractl_registry.refusals import BaseDiffersError, PolicyDeniedError, ProvenanceError
from loractl_registry.trust.errors import RoleError, TrustError

NARROW = """
[base]
by = ["role:operator"]
licences = ["apache-2.0"]
sources = ["{root}/*"]
[adapter.candidate]
by = ["anyone"]
[adapter.approved]
by = ["anyone"]
[adapter.live]
by = ["anyone"]
"""
OTHER_SOURCE = "UPDATE base SET source = 'hf:evil/model@1'"
OTHER_LICENCE = "UPDATE base SET licence = 'apache-2.0'"


@pytest.fixture
def live(registry, add):
    add()
    registry.promote(Ref("bot", 1), actor="ada", to=Stage.LIVE)
    return registry


def statements_about_bases(registry):
    context = registry._context
    with context.database.reading() as connection:
        return admissions_of(context, verified_chain(context, connection))


def columns(home):

    with sqlite3.connect(home / "registry.db") as connection:
        return [row[1] for row in connection.execute("PRAGMA table_info(base)")]


def test_admission_binds_name_digest_source_and_licence(registry, tmp_path):
    base = registry.add_base("tiny", str(write_base(tmp_path / "base")), actor="ada", licence="MIT").base

    admission = statements_about_bases(registry)["tiny"]
    event = registry.history("tiny")[-1]

    assert (admission.digest, admission.source, admission.licence) == (base.digest, base.source, "MIT")
    assert (event.action, event.detail["signer"]) == ("base.add", "ada")
    assert event.detail["statement"].startswith("sha256:")
    assert registry.identities.verify().problems == ()


def test_same_files_again_sign_nothing(registry, base, tmp_path):
    before = registry.identities.verify().statements

    again = registry.add_base("tiny-moe", str(tmp_path / "base"), actor="ada")

    assert (again.is_new, registry.identities.verify().statements) == (False, before)


def test_base_that_moved_is_signed_again(registry, base, tmp_path):
    moved = shutil.copytree(tmp_path / "base", tmp_path / "elsewhere")

    registry.add_base("tiny-moe", str(moved), actor="ada")

    assert statements_about_bases(registry)["tiny-moe"].source == str(moved)
    assert registry.snapshot("tiny-moe").distrust is None
    assert registry.identities.verify().problems == ()


def test_withdrawal_is_signed_and_the_name_is_free_for_other_files(registry, base, tmp_path):
    with pytest.raises(BaseDiffersError):
        registry.add_base("tiny-moe", str(write_base(tmp_path / "other", seed=9)), actor="ada")
    registry.remove_base("tiny-moe", actor="ada")
    withdrawn = statements_about_bases(registry)["tiny-moe"].is_admitted
    other = registry.add_base("tiny-moe", str(tmp_path / "other"), actor="ada").base

    assert (withdrawn, statements_about_bases(registry)["tiny-moe"].digest) == (False, other.digest)
    assert registry.identities.verify().problems == ()


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        pytest.param(REBIND[0], "the database says digest", id="digest"),
        pytest.param(OTHER_SOURCE, "the database says source hf:evil/model@1", id="source"),
        pytest.param(OTHER_LICENCE, "the database says licence apache-2.0", id="licence"),
    ],
)
def test_row_that_is_not_what_was_admitted_is_served_by_nobody_and_builds_nothing(live, add, home, attack, said):
    add("sly", 2)
    run_sql(home, attack)

    snapshot = live.snapshot("tiny-moe")

    assert said in live.identities.admission(live.base("tiny-moe")).objection
    assert (snapshot.versions, [str(ref) for ref in snapshot.refused]) == ((), ["bot@1"])
    assert said in snapshot.distrust
    assert any(said in problem for problem in live.identities.verify().problems)
    with pytest.raises(BaseDisagreementError, match="tiny-moe"):
        live.promote(Ref("sly", 1), actor="ada")


def test_row_that_was_put_in_is_served_by_nobody(live, home):
    names = columns(home)
    chosen = ["'sly-moe'" if name == "name" else "NULL" if name == "id" else name for name in names]
    run_sql(home, f"INSERT INTO base ({', '.join(names)}) SELECT {', '.join(chosen)} FROM base")

    assert live.snapshot("sly-moe").distrust == "base sly-moe: no signed statement admits it"


def test_row_that_was_removed_or_put_back_is_named(registry, base, home):
    run_sql(home, "UPDATE base SET removed_at = '2026-01-31T09:00:00.000000Z'")
    removed = registry.identities.verify().problems
    run_sql(home, "UPDATE base SET removed_at = NULL")
    registry.remove_base("tiny-moe", actor="ada")
    run_sql(home, "UPDATE base SET removed_at = NULL")

    assert removed == ("base tiny-moe: it was admitted, and the database does not have it",)
    assert "ada has withdrawn it" in registry.snapshot("tiny-moe").distrust


def test_adding_again_signs_what_is_said_now_and_not_what_was_edited_into_the_row(registry, base, home, tmp_path):
    run_sql(home, OTHER_LICENCE, OTHER_SOURCE)

    healed = registry.add_base("tiny-moe", str(tmp_path / "base"), actor="ada").base

    assert (healed.licence, healed.source) == (base.licence, base.source)
    assert registry.base("tiny-moe") == healed
    assert registry.snapshot("tiny-moe").distrust is None
    assert registry.history("tiny-moe")[-1].action == "base.admit"


@pytest.mark.parametrize(
    ("folder", "licence", "said"),
    [
        pytest.param("models/base", None, "base.licences", id="no-licence"),
        pytest.param("models/base", "llama3", "llama3 is not among them", id="other-licence"),
        pytest.param("elsewhere", "apache-2.0", "base.sources, line 5", id="other-source"),
    ],
)
def test_policy_judges_what_is_admitted(registry, home, tmp_path, folder, licence, said):
    registry.identities.create("ada", actor="ada")
    (home / "policy.toml").write_text(NARROW.format(root=tmp_path / "models"))

    with pytest.raises(BaseDeniedError, match=said):
        registry.add_base("tiny", str(write_base(tmp_path / folder)), actor="ada", licence=licence)

    assert registry.bases() == ()


def test_only_whom_the_policy_names_admits_and_only_an_operator_withdraws(registry, home, clock, tmp_path):
    registry.identities.create("ada", actor="ada")
    registry.identities.create("rita", actor="ada")
    with Registry.open(home, clock=clock, identity="ada") as first:
        first.identities.trust("rita", home / "keys/rita.pem.pub", ["reviewer", "contributor"], actor="ada")
        first.add_base("tiny", str(write_base(tmp_path / "base")), actor="ada")
    (home / "policy.toml").write_text('base.by = ["role:operator"]')

    with Registry.open(home, clock=clock, identity="rita") as reviewer:
        with pytest.raises(BaseDeniedError, match="it does not name rita"):
            reviewer.add_base("other", str(tmp_path / "base"), actor="rita")
        with pytest.raises(RoleError, match="withdrawal of a base"):
            reviewer.remove_base("tiny", actor="rita")

    assert [base.name for base in registry.bases()] == ["tiny"]


@pytest.mark.parametrize("by", ["rita", "role:reviewer", "anyone"])
def test_policy_lets_others_than_operators_admit_and_no_longer_does(registry, home, clock, tmp_path, by):
    registry.identities.create("ada", actor="ada")
    registry.identities.create("rita", actor="ada")
    with Registry.open(home, clock=clock, identity="ada") as first:
        first.identities.trust("rita", home / "keys/rita.pem.pub", ["reviewer"], actor="ada")
    (home / "policy.toml").write_text(f'base.by = ["{by}"]')

    with Registry.open(home, clock=clock, identity="rita") as reviewer:
        admitted = reviewer.add_base("tiny", str(write_base(tmp_path / "base")), actor="rita").base

    with Registry.open(home, clock=clock, identity="ada") as operator:
        assert operator.snapshot("tiny").distrust is None
        assert operator.identities.verify().problems == ()
        for stricter in ('base.by = ["role:operator"]', "[adapter.candidate]\nby = ['anyone']", "no policy at all"):
            (home / "policy.toml").write_text(stricter)
            assert operator.identities.admission(admitted).objection == "no signed statement admits it"
            assert "no signed statement admits it" in operator.snapshot("tiny").distrust
        (home / "policy.toml").write_text('base.by = ["role:operator"]')
        operator.add_base("tiny", str(tmp_path / "base"), actor="ada")
        assert operator.snapshot("tiny").distrust is None
        (home / "policy.toml").write_text('base.by = ["rita"]')
        assert operator.snapshot("tiny").distrust is None


def test_nothing_is_hashed_for_who_cannot_sign(registry, home, tmp_path):
    (home / "policy.toml").write_text(NARROW.format(root=tmp_path))

    with pytest.raises(NoIdentityError):
        registry.add_base("tiny", "/no/such/folder", actor="ada")


@pytest.mark.parametrize("licence", ["", "x" * 501, "a\nb"])
def test_licence_that_is_none_is_refused(registry, tmp_path, licence):
    with pytest.raises(ProvenanceError):
        registry.add_base("tiny", str(write_base(tmp_path / "base")), actor="ada", licence=licence)


def test_home_of_an_older_loractl_has_its_bases_signed_for_by_its_first_identity(live, home):
    made_older(home)
    before = live.snapshot("tiny-moe")

    live.identities.create("grace", actor="grace")

    assert (before.versions, "loractl identity create" in before.distrust) == ((), True)
    assert statements_about_bases(live)["tiny-moe"].signer == "grace"
    assert [str(version.ref) for version in live.snapshot("tiny-moe").versions] == ["bot@1"]
    assert live.identities.verify().problems == ()


def test_chain_that_does_not_verify_admits_nothing(live, home, tmp_path):
    run_sql(home, "DELETE FROM statement WHERE sequence = 3")

    with Registry.open(home) as fresh, pytest.raises(TrustError):
        fresh.add_base("other", str(write_base(tmp_path / "other", seed=3)), actor="ada")


def test_version_of_a_base_that_is_not_admitted_climbs_nowhere(registry, base, home, tmp_path):
    registry.add("bot", str(write_adapter(tmp_path / "adapter", seed=1)), actor="ada")
    run_sql(home, "UPDATE base SET name = 'renamed'")

    with pytest.raises(BaseDisagreementError, match="renamed"):
        registry.promote(Ref("bot", 1), actor="ada")


ENGINES = """
[base]
by = ["anyone"]
engines = ["{engine}"]
[adapter.candidate]
by = ["anyone"]
"""


@pytest.mark.parametrize("engine", ["1.2.*", "9.9"])
def test_policy_judges_the_engine_that_is_installed(registry, add, home, monkeypatch, engine):
    monkeypatch.setattr(engines, "version", lambda name: "1.2.3+cpu")
    add()
    (home / "policy.toml").write_text(ENGINES.format(engine=engine))

    if engine == "1.2.*":
        registry.policies.require_engine()
        assert registry.promote(Ref("bot", 1), actor="ada").version.stage is Stage.CANDIDATE
        return
    with pytest.raises(EngineDeniedError, match=r"1\.2\.3 is not among them; it asks for 9\.9 \(base\.engines, line 4"):
        registry.policies.require_engine()
    with pytest.raises(PolicyDeniedError, match=r"base\.engines"):
        registry.promote(Ref("bot", 1), actor="ada")


def test_rule_about_engines_denies_where_none_is_installed(registry, home, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(engines, "version", missing)
    (home / "policy.toml").write_text(ENGINES.format(engine="*"))

    with pytest.raises(EngineDeniedError, match="it is not known"):
        registry.policies.require_engine()


def test_policy_without_a_rule_about_engines_asks_for_none(registry, base):
    registry.policies.require_engine()
