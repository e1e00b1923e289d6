"""The named dictionary: what is published of a run, read and applied with NumPy alone."""
