"""A trained model in use: pyfunc, predict."""
