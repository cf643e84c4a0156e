"""A survey counts what a full run would draw, without touching its media."""

from pathlib import Path

from tests.sampling.files import only
from umer1_core.sampling import index_sides, list_sources, sample_source
from umer1_core.sampling.survey import count_sides, survey_source


def rows(count: int) -> list[dict]:
    return [{"qry": f"q{n}", "qry_image_path": f"images/{n % 10}.jpg", "pos_text": f"a{n % 3}"} for n in range(count)]


def test_the_distinct_sides_are_those_that_a_full_run_lists(mmeb, store):
    mmeb(rows(40), subset="A")
    specs = list_sources([mmeb(rows(25), subset="B")])
    counts = count_sides([survey_source(spec, 0) for spec in specs], samples=1)
    for spec in specs:
        sample_source(spec, 0, store)
    listed = sum(entry.rows for entry in index_sides(store, 100, 0))
    assert sum(each.sides for each in counts) == sum(each.completions for each in counts) == listed == 43
    assert {(each.source, each.role): each.sides for each in counts} == {
        ("mmeb/A", "query"): 40, ("mmeb/A", "target"): 3, ("mmeb/B", "query"): 0, ("mmeb/B", "target"): 0,
    }  # fmt: skip


def test_several_samples_are_asked_of_sides_that_have_as_many_uses(mmeb):
    surveys = [survey_source(only(mmeb(rows(30))), 0)]
    queries, targets = count_sides(surveys, samples=4)
    assert (queries.sides, queries.completions) == (30, 30) and (targets.sides, targets.completions) == (3, 12)


def test_the_limit_holds_and_no_media_are_opened(mmeb):
    source = mmeb(rows(30), limit=12)
    for file in (Path(source.root) / "images").iterdir():
        file.unlink()
    survey = survey_source(only(source), 0)
    assert (survey.read, survey.drawn) == (30, 12)
    assert sum(each.sides for each in count_sides([survey], 1)) <= 15


def test_the_rows_surveyed_are_those_a_run_with_the_same_seed_draws(mmeb, store):
    source = mmeb(rows(30), limit=12)
    sample_source(only(source), 7, store)
    sides = sum(entry.rows for entry in index_sides(store, 100, 7))
    assert sum(each.sides for each in count_sides([survey_source(only(source), 7)], 1)) == sides


def test_no_sources_have_no_sides():
    assert count_sides([], 1) == []
