"""The RL selection is exact in size and as even as what is available allows."""

from hypothesis import given
from hypothesis import strategies as st

from umer1_core.publishing.balance import Group, balance, fill_evenly, split

CAPACITIES = st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 50), max_size=8)
GROUPS = st.lists(
    st.builds(Group, st.sampled_from(["image", "video", "visdoc"]), st.sampled_from("abcd"),
              st.integers(0, 30), st.integers(0, 30)),
    unique_by=lambda group: (group.modality, group.source), max_size=12,
)  # fmt: skip


def is_even(taken: dict, capacities: dict) -> bool:
    """No one has two less than another unless it gave all it had."""
    most = max(taken.values(), default=0)
    return all(taken[name] >= most - 1 or taken[name] == capacities[name] for name in taken)


@given(size=st.integers(0, 300), capacities=CAPACITIES, seed=st.integers(0, 3))
def test_water_fills_exactly_and_evenly(size, capacities, seed):
    taken = fill_evenly(size, capacities, seed)
    assert sum(taken.values()) == min(size, sum(capacities.values()))
    assert all(0 <= taken[name] <= capacities[name] for name in capacities)
    assert is_even(taken, capacities)


@given(size=st.integers(0, 500), groups=GROUPS, seed=st.integers(0, 3), order=st.randoms())
def test_a_selection_is_even_over_modalities_and_inside_each(size, groups, seed, order):
    quotas = balance(size, groups, seed)
    available = {(group.modality, group.source): group.available for group in groups}
    assert sum(quotas.values()) == min(size, sum(available.values()))
    modalities = {m for m, _ in available}
    total = {m: sum(n for (each, _), n in quotas.items() if each == m) for m in modalities}
    assert is_even(total, {m: sum(n for (each, _), n in available.items() if each == m) for m in modalities})
    for modality in modalities:
        mine = {key: n for key, n in quotas.items() if key[0] == modality}
        assert is_even(mine, available)
    shuffled = list(groups)
    order.shuffle(shuffled)
    assert balance(size, shuffled, seed) == quotas


def test_the_papers_numbers_come_out():
    image = [Group("image", name, 10_000, 0) for name in ("OK-VQA", "ChartQA", "CIRR", "A-OKVQA", "Visual7W")]
    video = [Group("video", name, 10_000, 0) for name in ("caption", "retrieval", "qa")]
    visdoc = [Group("visdoc", name, 10_000, 0) for name in ("vidore", "visrag")]
    quotas = balance(11_136, [*image, *video, *visdoc], 0)
    assert {n for (m, _), n in quotas.items() if m == "image"} == {742, 743}
    assert [n for (m, _), n in quotas.items() if m == "visdoc"] == [1_856, 1_856]


def test_preferred_pairs_come_first():
    assert split(Group("image", "a", 3, 10), 5) == (3, 2)
    assert split(Group("image", "a", 30, 10), 5) == (5, 0)
