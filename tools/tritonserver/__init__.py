"""A tritonserver for tests, benchmarks and a first try: where it comes from, a container for it, its process."""
