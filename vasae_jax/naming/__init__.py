"""The tokens that a feature is named by."""
