"""No path leaves its root, however it is spelled."""

import pytest

from umer1_core import media
from umer1_core.errors import BadInput

_ESCAPES = [
    "../secret.jpg",
    "a/../../b.jpg",
    "/etc/passwd",
    "file:///etc/passwd",
    "s3://other/x.jpg",
    "..\\secret.jpg",
    "C:\\windows\\x.jpg",
    "C:/windows/x.jpg",
    "x.jpg\0.png",
]


@pytest.mark.parametrize("path", _ESCAPES)
def test_a_path_that_leaves_its_root_is_refused(tmp_path, path):
    for join in (lambda: media.safe_join(tmp_path, path), lambda: media.safe_uri(str(tmp_path), path)):
        with pytest.raises(BadInput) as raised:
            join()
        assert raised.value.reason == "path_outside_root"


@pytest.mark.parametrize("path", _ESCAPES)
def test_nor_does_one_on_another_file_system(path):
    with pytest.raises(BadInput) as raised:
        media.safe_uri("memory://bucket/root", path)
    assert raised.value.reason == "path_outside_root"


def test_a_link_that_escapes_is_refused_and_one_that_stays_is_followed(tmp_path):
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "out").symlink_to(tmp_path)
    (root / "in").symlink_to(root / "real")
    with pytest.raises(BadInput):
        media.safe_join(root, "out/x.jpg")
    assert media.safe_join(root, "in/x.jpg") == root / "real" / "x.jpg"


@pytest.mark.parametrize("path", ["a/b.jpg", "a/../b.jpg", "a..b.jpg", "ü/..b/x y.jpg", "a:b.jpg"])
def test_ordinary_names_are_not_refused(tmp_path, path):
    assert media.safe_join(tmp_path, path).is_relative_to(tmp_path)


def test_names_sort_as_people_count_also_with_digits_that_are_no_decimals():
    assert media.natural_sort(["f_10", "f_9", "f²", "f_1a"]) == ["f_1a", "f_9", "f_10", "f²"]
