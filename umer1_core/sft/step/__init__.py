"""The gradient of one step over N pairs."""
