"""What people write today, each a small script of its own."""
