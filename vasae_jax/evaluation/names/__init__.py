"""Does a name hold? Measures of a name's worth, each beside the same with shuffled names."""
