"""A data set handed on: for `datasets`, or in the authors' JSON form; into a folder or to the hub."""
