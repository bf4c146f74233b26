"""Measurements of the project itself; each file is a command."""
