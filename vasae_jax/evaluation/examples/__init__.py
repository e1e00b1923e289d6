"""Examples of where every feature fires, gathered in one pass over a split."""
