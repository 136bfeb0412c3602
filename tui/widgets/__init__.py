"""Widgets draw values that they are given; they know neither torch nor the record."""
