"""Look first: what a dataset holds, and what is wrong with it, before anything is trained on it."""
