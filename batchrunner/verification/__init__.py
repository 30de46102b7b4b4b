"""Checks a run directory from outside, and does by hand what a start would to set it right."""

from __future__ import annotations

from batchrunner.verification.check import verify
from batchrunner.verification.repair import Repair, repair
from batchrunner.verification.report import Finding, Note, Place, Report
from batchrunner.verification.words import repair_text, report_text

__all__ = ["Finding", "Note", "Place", "Repair", "Report", "repair", "repair_text", "report_text", "verify"]
