"""SAEs of other libraries, read and written: one file a library."""
