"""The embedded default: a small world with known truth, a small teacher that looks at it, and the measure of both."""
