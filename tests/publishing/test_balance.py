"""The RL selection comes in whole blocks and is as even as what is available allows."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from umer1_core.publishing.balance import Group, balance, fill_evenly, rl_table

CAPACITIES = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 50), max_size=8)
GROUPS = st.lists(
    st.builds(Group, st.sampled_from(["image", "video", "visdoc"]), st.sampled_from(["a", "b", "visrag/c", "visrag/d"]),
              st.integers(0, 30), st.integers(0, 30)),
    unique_by=lambda group: (group.modality, group.source), max_size=12,
)  # fmt: skip


def is_even(taken: dict, capacities: dict, step: int = 1) -> bool:
    """No one has two steps less than another unless it gave all the whole steps it had."""
    most = max(taken.values(), default=0)
    return all(taken[name] >= most - step or taken[name] == capacities[name] // step * step for name in taken)


def summed(counts: dict, level: int) -> dict:
    totals: dict = defaultdict(int)
    for path, count in counts.items():
        totals[path[:level]] += count
    return totals


@given(size=st.integers(0, 300), capacities=CAPACITIES, seed=st.integers(0, 3))
def test_water_fills_exactly_and_evenly(size, capacities, seed):
    taken = fill_evenly(size, capacities, seed)
    assert sum(taken.values()) == min(size, sum(capacities.values()))
    assert all(0 <= taken[name] <= capacities[name] for name in capacities)
    assert is_even(taken, capacities)


@given(size=st.integers(0, 500), block=st.sampled_from([1, 2, 8, 32]), groups=GROUPS, seed=st.integers(0, 3),
       order=st.randoms())  # fmt: skip
def test_a_selection_is_even_over_modalities_data_sets_and_sources(size, block, groups, seed, order):
    selection = balance(size, block, groups, seed)
    step = selection.block
    assert block % step == 0
    whole = {group.path: group.available // step * step for group in groups}
    assert sum(selection.taken.values()) == min(size // step * step, sum(whole.values()))
    assert all(count % step == 0 and count <= whole[path] for path, count in selection.taken.items())
    for level in range(3):
        parts, offered = summed(selection.taken, level + 1), summed(whole, level + 1)
        for parent in {path[:-1] for path in parts}:
            assert is_even({p: n for p, n in parts.items() if p[:-1] == parent}, offered, step)
    shuffled = list(groups)
    order.shuffle(shuffled)
    assert balance(size, block, shuffled, seed) == selection


@given(size=st.integers(1, 500), groups=GROUPS, seed=st.integers(0, 3))
def test_blocks_of_one_take_exactly_what_is_asked_or_all_there_is(size, groups, seed):
    selection = balance(size, 1, groups, seed)
    assert sum(selection.taken.values()) == min(size, sum(group.available for group in groups))


def paper(available: int) -> list[Group]:
    image = [Group("image", f"mmeb/{n}", available, 0) for n in ("OK-VQA", "ChartQA", "CIRR", "A-OKVQA", "Visual7W")]
    video = [Group("video", f"llava_hound/{n}", available, 0) for n in ("caption_retrieval", "video_retrieval", "qa")]
    pages = [Group("visdoc", f"visrag/{n}", available, 0) for n in ("ArxivQA", "ChartQA", "InfoVQA", "PlotQA")]
    return [*image, *video, *pages, Group("visdoc", "vidore/colpali_train_set", available, 0)]


def test_the_papers_numbers_come_out():
    selection = balance(11_136, 32, paper(10_000), 0)
    assert selection.block == 32
    assert summed(selection.taken, 1) == {("image",): 3_712, ("video",): 3_712, ("visdoc",): 3_712}
    datasets = summed(selection.taken, 2)
    assert {n for (m, _), n in datasets.items() if m == "image"} == {736, 768}
    assert sorted(n for (m, _), n in datasets.items() if m == "video") == [1_216, 1_248, 1_248]
    assert {d: n for (m, d), n in datasets.items() if m == "visdoc"} == {
        "vidore/colpali_train_set": 1_856,
        "visrag": 1_856,
    }


def test_a_source_too_small_for_a_block_does_not_shrink_the_blocks_of_all():
    groups = [*paper(10_000), Group("image", "own/tiny", 5, 0)]
    selection = balance(11_136, 32, groups, 0)
    assert selection.block == 32 and selection.taken["image", "own/tiny", "own/tiny"] == 0
    (tiny,) = [row for row in rl_table(groups, selection) if row["source"] == "own/tiny"]
    assert (tiny["available"], tiny["taken"], tiny["short_of"]) == (5, 0, tiny["asked"])


def test_where_one_is_short_the_others_of_its_level_fill_up():
    groups = [Group(*g.path[::2], 64, 0) if g.source == "mmeb/CIRR" else g for g in paper(10_000)]
    selection = balance(11_136, 32, groups, 0)
    assert selection.taken["image", "mmeb/CIRR", "mmeb/CIRR"] == 64
    assert summed(selection.taken, 1)[("image",)] == 3_712


def test_few_pairs_get_small_blocks():
    selection = balance(240, 32, [Group("image", f"s{i}", 100, 0) for i in range(10)], 0)
    assert selection.block == 16 and sum(selection.taken.values()) == 240 and min(selection.taken.values()) == 16


def test_pairs_outside_the_cold_start_are_taken_first():
    groups = [Group("image", "a", 3, 10), Group("video", "b", 30, 10)]
    rows = rl_table(groups, balance(10, 1, groups, 0))
    assert [(row["taken"], row["taken_outside_sft"]) for row in rows] == [(5, 3), (5, 5)]
