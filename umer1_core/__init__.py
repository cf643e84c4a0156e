"""umer1: reason before you embed. The library below the flows; it never imports Prefect."""

__version__ = "0.1.0"
