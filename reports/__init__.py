"""Tables and figures from run directories; no torch."""

from reports.document import FORMATS
from reports.report import write_findings, write_report
from reports.table1 import print_table

__all__ = ["FORMATS", "print_table", "write_findings", "write_report"]
