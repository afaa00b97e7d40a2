"""Runs, the store and the registry: the room that knows MLflow."""
