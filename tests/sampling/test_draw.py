"""The draw: seeded, order-free, complete."""

from hypothesis import given
from hypothesis import strategies as st

from umer1_core.sampling.draw import draw
from umer1_core.sampling.rows import RawRow, RawSide, Refused

KEYS = st.lists(st.integers(0, 30), max_size=60)


def row(key: int, number: int = 0) -> RawRow:
    return RawRow("s", str(key), "f.parquet", number, RawSide("q", "", "qry"), RawSide("t", "", "pos_text"))


def names(drawn) -> set[str]:
    return {each.key for each in drawn.rows}


@given(keys=KEYS, size=st.integers(1, 40), seed=st.integers(0, 5), order=st.randoms())
def test_the_order_of_rows_changes_neither_the_draw_nor_its_counts(keys, size, seed, order):
    shuffled = list(keys)
    order.shuffle(shuffled)
    one, other = draw(map(row, keys), size, seed), draw(map(row, shuffled), size, seed)
    assert names(one) == names(other)
    assert (one.not_drawn, len(one.refused)) == (other.not_drawn, len(other.refused))


@given(keys=KEYS, size=st.integers(1, 40))
def test_every_row_read_is_drawn_not_drawn_or_refused(keys, size):
    drawn = draw([Refused("s", "f#0", "bad_field", ""), *map(row, keys)], size, 0)
    assert len(drawn.rows) == min(size, len(set(keys)))
    assert drawn.read["s"] == len(keys) + 1 == len(drawn.rows) + drawn.not_drawn["s"] + len(drawn.refused)


def test_another_seed_draws_other_rows():
    assert names(draw(map(row, range(200)), 20, 0)) != names(draw(map(row, range(200)), 20, 1))


def test_a_draw_is_not_the_first_rows():
    assert names(draw(map(row, range(200)), 20, 0)) != {str(n) for n in range(20)}


def test_a_repeated_row_is_refused_and_names_the_row_it_repeats():
    (twin,) = draw([row(1, 4), row(2, 5), row(1, 6)], 10, 0).refused
    assert (twin.reason, twin.row) == ("duplicate_row", "f.parquet#6")
    assert "repeats row 4" in twin.detail


def test_what_a_smaller_draw_takes_a_larger_one_takes_too():
    assert names(draw(map(row, range(100)), 10, 3)) < names(draw(map(row, range(100)), 30, 3))
