"""What counts as a near-duplicate. Loads no torch, so that a kept audit is found without it."""

from __future__ import annotations

MOST_PHASH_BITS, MOST_DHASH_BITS, LEAST_CORRELATION = 8, 10, 0.97
"""Near-duplicates differ at most so much. Chosen on the training part of 2,500 photographs: 800 copies at JPEG quality
30 to 90 and 50 to 130 % of the size stayed within 8 and 8 bits and above 0.996; of 1,533,876 pairs of different
photographs none came closer than 12 bits, or above 0.85 (`python -m tests.benchmarks audit`)."""
LEAST_SIDE = 32
"""Pixels of the shorter side. In smaller images different ones count as alike: 64,005 pairs of MNIST's training images
would."""
MOST_PAIRS, MOST_ODD = 200, 500
"""What is kept of a network's judgement: the most similar pairs, and the images farthest from their class."""
RULE = (1, MOST_PHASH_BITS, MOST_DHASH_BITS, LEAST_CORRELATION, LEAST_SIDE)
"""For cache keys. Increment the number with any other change to the audit's facts."""
