"""Our counts beside the published ones, and a difference only where there is something to compare."""

import pytest

from umer1_core.publishing.funnel import FunnelRow
from umer1_core.publishing.parity import parity


def row(source: str, pairs: int, kept: int) -> FunnelRow:
    return FunnelRow(source, "image", pairs, 0, {}, pairs, kept, {}, pairs - kept, kept, 0)


def test_a_source_stands_beside_its_published_counts():
    found, total = parity([row("mmeb/OK-VQA", 9_000, 7_200)])
    assert (found.drawn, found.kept, found.rows, found.sampled, found.released) == (9_000, 7_200, 9_000, 9_000, 8_192)
    assert found.difference == pytest.approx(80 - 100 * 8_192 / 9_000)
    assert total.difference == found.difference


def test_the_published_limit_of_a_subset_counts_as_sampled():
    found, _ = parity([row("mmeb/VisDial", 50_000, 40_320)])
    assert (found.rows, found.sampled, found.difference) == (123_500, 50_000, 0)


def test_visrags_sources_stand_together():
    found, _ = parity([row("visrag/PlotQA", 60_000, 40_000), row("visrag/ChartQA", 62_752, 41_726)])
    assert (found.source, found.drawn, found.kept, found.difference) == ("visrag", 122_752, 81_726, 0)


def test_few_pairs_and_the_miniatures_are_shown_but_not_compared():
    few, total = parity([row("mmeb/OK-VQA", 200, 100)])
    assert (few.drawn, few.difference, total.difference) == (200, None, None)
    (mini, _) = parity([row("mmeb/OK-VQA", 9_000, 100)], miniature=True)
    assert mini.difference is None


def test_own_sources_have_nothing_to_stand_beside():
    assert parity([row("own/mine", 10, 5)]) == []


def test_all_published_sources_add_up_to_the_papers_totals():
    from umer1_core.upstream import PUBLISHED

    rows = [
        row("visrag/ChartQA" if p.source == "visrag" else p.source, p.sampled, p.released) for p in PUBLISHED.values()
    ]
    total = parity(rows)[-1]
    assert total.sampled == pytest.approx(1_760_000, rel=0.005) and total.released == pytest.approx(
        1_460_000, rel=0.005
    )
    assert total.difference == 0
