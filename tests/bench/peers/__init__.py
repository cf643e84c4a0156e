"""The peers' own runners. Their packages live in an environment of their own, `.venv-peers` (make bench)."""
