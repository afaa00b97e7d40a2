"""Benchmarks: each prints a small table, none is a test."""
