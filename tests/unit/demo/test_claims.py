from loractl.demo.claims import Claim, Ledger, Observation


def test_claim_has_a_sentence() -> None:
    assert all(claim.text for claim in Claim)


def test_ledger_counts_what_nobody_observed_as_missing() -> None:
    ledger = Ledger()
    ledger.record(Observation(Claim.BASE_ADMITTED, is_seen=True, found="sha256:1"))

    assert [one.claim for one in ledger.missing()] == [claim for claim in Claim if claim is not Claim.BASE_ADMITTED]
    assert len(ledger.observations()) == len(Claim)


def test_ledger_does_not_let_a_later_success_mend_a_failure() -> None:
    ledger = Ledger()
    ledger.record(Observation(Claim.STOPPED, is_seen=False, found="still there"))
    ledger.record(Observation(Claim.STOPPED, is_seen=True, found="gone"))

    assert ledger.observations()[-1] == Observation(Claim.STOPPED, is_seen=False, found="still there")
