"""Networks of timm, which is an extra: uv run --extra timm pytest -m timm -n 0."""
