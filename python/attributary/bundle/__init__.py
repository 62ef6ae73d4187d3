"""The deployable unit: an immutable directory that holds everything a server needs for one generator."""
