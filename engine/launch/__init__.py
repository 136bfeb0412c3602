"""Ways to run: in this process, detached from the terminal, or on Ray; and how to follow and steer such runs."""
