"""What is true: prices, rating, grants. Pure: no IO, no clock, no randomness, no logging."""
