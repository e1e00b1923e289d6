"""A language model with one layer's output replaced, and what that does to its predictions."""
