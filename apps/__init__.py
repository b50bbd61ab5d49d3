"""The dashboard: a Streamlit page over run directories. Imports no torch."""

from apps.server import launch

__all__ = ["launch"]
