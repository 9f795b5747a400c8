"""What the demonstration of a team claims."""

from __future__ import annotations

from loractl.demo.claims import Claimed


class TeamClaim(Claimed):
    """One thing that the demonstration of a team must see happen, in the order in which it happens."""

    PEOPLE_TRUSTED = "people-trusted"
    POLICY_IN_FORCE = "policy-in-force"
    ADDED = "added"
    FACTS_ASKED = "facts-asked"
    EVIDENCE_COUNTS = "evidence-counts"
    UNAPPROVED_REFUSED = "unapproved-refused"
    SELF_APPROVAL_REFUSED = "self-approval-refused"
    APPROVED = "approved"
    SERVABLE = "servable"
    FLIPPED_ROW_CAUGHT = "flipped-row-caught"
    REPLAY_CAUGHT = "replay-caught"
    REVOKED = "revoked"
    OLD_DATABASE_CAUGHT = "old-database-caught"
    MENDED = "mended"
    KEY_REVOKED = "key-revoked"
    APPROVAL_VOID = "approval-void"

    @property
    def text(self) -> str:
        """The claim as a sentence."""
        return _TEXTS[self]


_TEXTS = {
    TeamClaim.PEOPLE_TRUSTED: "three people have keys of their own, with roles that an operator signed for",
    TeamClaim.POLICY_IN_FORCE: "the policy of a team is in force, and holds together",
    TeamClaim.ADDED: "carl's two adapters are candidates",
    TeamClaim.FACTS_ASKED: "the policy asks for evidence and for a second pair of eyes, and says where it stands",
    TeamClaim.EVIDENCE_COUNTS: "a proof of effect, a scan and an evaluation are kept, signed by carl, and count",
    TeamClaim.UNAPPROVED_REFUSED: "without an approval the policy says no, and which rule of it",
    TeamClaim.SELF_APPROVAL_REFUSED: "carl may review, and cannot approve what he added himself",
    TeamClaim.APPROVED: "on rita's approval the version is approved, and oscar takes it live",
    TeamClaim.SERVABLE: "a server would answer from it, and from nothing that is not approved",
    TeamClaim.FLIPPED_ROW_CAUGHT: "a stage that was flipped with sqlite3 is named, and not served",
    TeamClaim.REPLAY_CAUGHT: "a statement that was signed once and is played again is caught, and nothing is served",
    TeamClaim.REVOKED: "oscar revokes the version, and no server would answer from it",
    TeamClaim.OLD_DATABASE_CAUGHT: "the database from before the revocation is caught, and nothing is served",
    TeamClaim.MENDED: "with the right database in its place everything is as it was signed",
    TeamClaim.KEY_REVOKED: "rita's key is revoked, and signs nothing more",
    TeamClaim.APPROVAL_VOID: "the approval that she had given counts no longer",
}
