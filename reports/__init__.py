"""Tables and figures from run directories; no torch."""

from reports.document import FORMATS
from reports.report import write_findings, write_report

__all__ = ["FORMATS", "write_findings", "write_report"]
