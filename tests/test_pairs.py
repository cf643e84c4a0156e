"""Identity is content: the same side has the same key wherever it stands."""

from dataclasses import replace

from umer1_core.pairs import Media, Pair, Side, draw_priority, pair_from_record, pair_id, pair_record

IMAGE = Media("image", "/a/b.jpg", content_hash="h1", size=3, width=2, height=1)


def test_a_side_key_depends_on_text_and_content_but_not_on_the_place():
    side = Side("text", (IMAGE,))
    assert side.key == Side("text", (replace(IMAGE, uri="/elsewhere.jpg"),)).key
    assert side.key != Side("text", (replace(IMAGE, content_hash="h2"),)).key
    assert side.key != Side("text2", (IMAGE,)).key
    assert side.key != Side("text", (replace(IMAGE, kind="video"),)).key


def test_a_pair_survives_its_record():
    clip = Media("video", "/clips/x", frames=("1.jpg", "2.jpg"), content_hash="c")
    pair = Pair(pair_id("s", "k"), "s", "video", Side("q", (clip,)), Side("t"), (Side("n", (IMAGE,)),))
    assert pair_from_record(pair_record(pair)) == pair


def test_another_seed_draws_other_pairs():
    names = [pair_id("s", str(i)) for i in range(100)]

    def chosen(seed: int) -> set[str]:
        return set(sorted(names, key=lambda name: draw_priority(seed, name))[:10])

    assert chosen(1) == chosen(1) != chosen(2)
