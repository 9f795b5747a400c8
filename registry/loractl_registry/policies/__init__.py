"""Policy as data: one ``policy.toml`` that says who may do what, on what evidence, for whom, until when.

Importing this package imports pydantic; whatever must start quickly imports it late.
"""

from loractl_registry.policies.document import PolicyDocument
from loractl_registry.policies.errors import PolicyFileError, PresetNotFoundError, Problem
from loractl_registry.policies.evaluation import evaluate, evaluate_base
from loractl_registry.policies.facts import (
    Approval,
    BaseFacts,
    BaseRequest,
    DataSet,
    Evidence,
    Request,
    Signature,
)
from loractl_registry.policies.parsing import POLICY_FILE, Policy, parse_policy
from loractl_registry.policies.preset_files import PRESETS, preset, preset_text
from loractl_registry.policies.testing import CASES_FILE, CaseResult, PolicyCase, parse_cases, run_cases
from loractl_registry.policies.verdicts import Decision, Finding, Verdict

__all__ = [
    "CASES_FILE",
    "POLICY_FILE",
    "PRESETS",
    "Approval",
    "BaseFacts",
    "BaseRequest",
    "CaseResult",
    "DataSet",
    "Decision",
    "Evidence",
    "Finding",
    "Policy",
    "PolicyCase",
    "PolicyDocument",
    "PolicyFileError",
    "PresetNotFoundError",
    "Problem",
    "Request",
    "Signature",
    "Verdict",
    "evaluate",
    "evaluate_base",
    "parse_cases",
    "parse_policy",
    "preset",
    "preset_text",
    "run_cases",
]
