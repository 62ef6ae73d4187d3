"""Training-data attribution of text-to-image models, served in milliseconds."""

__version__ = "0.1.0"
