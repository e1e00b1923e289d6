"""General helpers that need no model and no device: files, locks, errors, signals, progress."""
