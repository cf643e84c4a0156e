"""Rows of a table, and which of them a step has."""
