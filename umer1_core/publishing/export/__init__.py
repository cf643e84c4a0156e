"""A data set handed on: for `datasets`, or in the authors' JSON form; into a folder or to the hub."""

from typing import Literal

Form = Literal["datasets", "released"]
Wanted = Literal["reference", "embed"]  # where media lie, or their bytes
