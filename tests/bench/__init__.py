"""Benchmarks: each function measures both sides in the same run and gives lines for the table.

make bench              # all groups
make bench NAME=data    # one
"""
