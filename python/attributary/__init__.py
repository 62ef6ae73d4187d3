"""Training-data attribution of text-to-image models, served in milliseconds."""

from importlib.metadata import version

__version__ = version("attributary")
