"""Train sparse autoencoders whose features are named by the nearest token embedding."""

__version__ = "0.1.0"
