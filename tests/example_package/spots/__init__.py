"""Bright spots in a corner of small images, and a network that finds the corner."""
