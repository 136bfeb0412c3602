"""Datasets: from files to uint8 tensors, once. `registry` is the torch-free table; the rest loads torch."""
