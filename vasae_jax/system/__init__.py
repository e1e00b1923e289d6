"""Files, signals, memory, clock and errors: what every room stands on."""
