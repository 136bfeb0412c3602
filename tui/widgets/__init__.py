"""Widgets draw the values they are given; they import neither torch nor the store."""
