"""MLflow's store: where it is, how it is opened, its client and its secrets."""
