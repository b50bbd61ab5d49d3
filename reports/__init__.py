"""Tables and figures from run directories; no torch."""

from reports.report import FORMATS, write_report
from reports.table1 import print_table

__all__ = ["FORMATS", "print_table", "write_report"]
