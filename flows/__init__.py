"""Order, parameters and concurrency: one file a deployment, no logic."""
