"""The longest inputs start first; nothing else moves."""

from umer1_core.annotation.order import media_key, prompt_tokens, send_order
from umer1_core.annotation.shard_run import wanted


def side(number: int, words: int = 5, picture: str = "", edge: int = 280, frames: int = 0, uses: int = 1) -> dict:
    media = {"kind": "image", "content_hash": picture, "width": edge, "height": edge, "frames": ["f"] * frames}
    return {"side_key": f"k{number}", "text": "word " * words, "media": [media] if picture else [], "uses": uses}


def test_the_longest_tenth_comes_first_and_the_rest_stays():
    sides = [side(i) for i in range(40)]
    sides[17], sides[33] = side(17, words=900), side(33, picture="clip", frames=8)
    order = [s["side_key"] for s in send_order(sides)]
    assert set(order[:2]) == {"k17", "k33"}
    assert order[2:] == [f"k{i}" for i in range(40) if i not in (17, 33)]


def test_sides_with_equal_media_stay_neighbours():
    sides = [side(i, picture=f"p{i // 4}", words=400 * (i == 9)) for i in range(40)]
    keys = [media_key(s) for s in send_order(sides)]
    assert all(keys[i] == keys[i - i % 4] for i in range(40))


def test_equal_sides_are_not_moved():
    sides = [side(i) for i in range(40)]
    assert send_order(sides) == sides


def test_a_clip_costs_its_frames():
    assert prompt_tokens(side(0, picture="c", frames=8)) > 7 * prompt_tokens(side(0, picture="c"))


def test_a_side_is_asked_for_as_many_samples_as_it_has_uses_at_most():
    asked = wanted([side(0, uses=1), side(1, uses=2), side(2, uses=9)], 3)
    assert list(asked) == [("k0", 0), ("k1", 0), ("k1", 1), ("k2", 0), ("k2", 1), ("k2", 2)]
