"""The mesh and its rules, where arrays are placed, and several hosts."""
