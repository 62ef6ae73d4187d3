"""What happened to a bundle after its build: an append-only file beside it, replayed when it is opened."""
