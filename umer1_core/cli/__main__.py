"""`python -m umer1_core.cli …`, for launchers that start a module in many processes."""

from umer1_core.cli import main

main()
