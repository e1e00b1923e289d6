"""The version, from which packaging takes it too."""

__version__ = "0.1.0"
