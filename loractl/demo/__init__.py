"""The demo: loractl's whole job on real parts, each step observed."""

from __future__ import annotations

from loractl.demo.claims import Claim, Observation
from loractl.demo.files import DemoError
from loractl.demo.play import DemoOptions, DemoReport, play, report_payload

__all__ = ["Claim", "DemoError", "DemoOptions", "DemoReport", "Observation", "play", "report_payload"]
