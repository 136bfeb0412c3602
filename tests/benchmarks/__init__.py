"""Speed and memory, measured in paired runs of whole processes. Not tests: they assert nothing and are run by hand.

uv run python -m tests.benchmarks            lists them
uv run python -m tests.benchmarks NAME [N]   runs one, N pairs
"""
