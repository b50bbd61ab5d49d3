"""The dashboard: Streamlit pages over run directories. Imports no torch."""

from apps.server import launch

__all__ = ["launch"]
