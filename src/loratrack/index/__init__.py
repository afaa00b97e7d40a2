"""The reading half of MLflow: its tables, read where they are, without MLflow and without torch."""
