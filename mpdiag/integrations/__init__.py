"""Diagnosis and mask piloting inside the training loops of other libraries."""
