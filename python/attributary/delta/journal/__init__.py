"""What happened to a bundle after its build, as a file: an append-only journal inside the bundle."""
