"""What there is to see, as data and as pictures."""
