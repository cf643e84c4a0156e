"""Thin adapters from Prefect to the library: one file a stage; retries, run names, artifacts and logs live here."""
