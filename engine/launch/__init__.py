"""Runs that no terminal can take along: a process of their own carries them, and whoever likes follows."""
