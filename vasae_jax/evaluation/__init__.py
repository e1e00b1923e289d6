"""What a trained run is worth: measures, names held against text, and patched models."""
