"""Patching: a language model's predictions when the rows at one site are replaced."""
