"""Sweeps: spaces of settings, which trial next, when to stop one. Knows Optuna, and no training."""
