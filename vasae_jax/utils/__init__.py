"""General helpers without a model or a device: files, locks, errors, signals, progress."""
