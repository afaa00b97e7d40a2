"""A stand-in for conda on machines without one: it answers exactly the calls that MLflow makes."""
