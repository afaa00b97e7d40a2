"""Rows with labels: read, checked, split and encoded."""
