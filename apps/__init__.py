"""The dashboard: Streamlit pages that show run directories. Importing it does not import torch."""

from apps.server import launch

__all__ = ["launch"]
