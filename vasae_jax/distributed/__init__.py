"""Devices and hosts: the mesh, where arrays live on it, and what is compiled for it."""
