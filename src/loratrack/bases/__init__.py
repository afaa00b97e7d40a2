"""Bases: pretrained networks, found, checked and sized."""
