from tests.sampling.files import hound, mmeb, store  # noqa: F401
