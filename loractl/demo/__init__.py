"""The demo: loractl's whole job on real parts, each step observed."""

from __future__ import annotations

from loractl.demo.claims import Claim, Observation
from loractl.demo.files import DemoError
from loractl.demo.play import DemoOptions, DemoReport, play, report_payload
from loractl.demo.team import play_team
from loractl.demo.team_claims import TeamClaim

__all__ = [
    "Claim",
    "DemoError",
    "DemoOptions",
    "DemoReport",
    "Observation",
    "TeamClaim",
    "play",
    "play_team",
    "report_payload",
]
