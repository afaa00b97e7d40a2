"""Training: the engine, its metrics, and the way of a run."""
