"""A piece of work that a user starts, from its config to its end in MLflow."""
