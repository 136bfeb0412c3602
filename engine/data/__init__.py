"""Datasets: from files to uint8 tensors, once. The torch-free table is `engine.catalog.datasets`."""
