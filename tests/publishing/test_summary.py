"""Publishing's pages in the UI: the manifest's numbers under the right columns, and nothing that says nothing."""

from typing import Any

import pytest

from umer1_core.publishing.summary import (
    funnel_headline,
    funnel_markdown,
    report_markdown,
    rl_headline,
    rl_markdown,
    tokens,
)


def manifest(**changes: Any) -> dict[str, Any]:
    cirr = {"source": "mmeb/CIRR", "read": 9_000, "not_drawn": 20, "rejected": {"empty_query": 3, "duplicate_row": 4}}
    cirr |= {"pairs": 8_973, "kept": 4, "cold_start": 5, "rl": 6, "dropped": {"repetition": 2, "no_think": 1}}
    hound = cirr | {"source": "llava_hound/qa", "pairs": 1_027, "kept": 2_496, "rejected": {}, "dropped": {}}
    ledger = {"completion_tokens": 1_000, "useful_tokens": 600, "wasted_tokens": 400, "saved_tokens": 0}
    taken = [rl_row("mmeb/CIRR", "image", 1_200, 300), rl_row("llava_hound/qa", "video", 800, 0)]
    whole = {"name": "x", "version": 2, "funnel": [cirr, hound], "ledger": ledger, "rl_table": taken, "rl_block": 4}
    return whole | changes


def rl_row(source: str, modality: str, taken: int, outside: int, **ranks: int) -> dict[str, Any]:
    counts = {"asked": 1, "available": 2, "outside_sft": 3, "taken": taken, "taken_outside_sft": outside, "short_of": 4}
    return {"source": source, "modality": modality} | counts | {"unranked": 0, "outside_band": 0} | ranks


def table(page: str) -> list[list[str]]:
    """The cells of a page's only table, its header first, without the line of alignments."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


def test_the_funnels_headline_counts_all_sources() -> None:
    assert funnel_headline(manifest()) == "2,500/10,000 pairs kept (25%)"
    assert funnel_headline(manifest(funnel=[])) == "0/0 pairs kept (0%)"


def test_every_source_stands_under_the_right_columns_with_its_reasons_by_name() -> None:
    page = funnel_markdown(manifest())

    header, cirr, hound = table(page)
    assert dict(zip(header, cirr, strict=True)) == {
        "source": "mmeb/CIRR",
        "rows read": "9,000",
        "not drawn": "20",
        "rejected": "7",
        "pairs": "8,973",
        "kept": "4",
        "cold start": "5",
        "RL": "6",
        "dropped for": "no_think 1, repetition 2",
    }
    assert (hound[0], hound[3], hound[-1]) == ("llava_hound/qa", "0", "")
    assert page.startswith("# x v2: 2,500/10,000 pairs kept (25%)\n")
    assert page.endswith(f"\n\n{tokens(manifest())}")


def test_the_tokens_are_counted_and_said_to_be_useful_or_not() -> None:
    assert tokens(manifest()) == "1,000 tokens generated: 60.0% useful, 40.0% rejected"


def test_the_rl_page_says_what_each_source_gave() -> None:
    page = rl_markdown(manifest())

    header, cirr, hound = table(page)
    assert header == [
        "source", "modality", "asked", "available", "outside", "taken", "taken outside", "short",
    ]  # fmt: skip
    assert cirr == ["mmeb/CIRR", "image", "1", "2", "3", "1,200", "300", "4"]
    assert hound == ["llava_hound/qa", "video", "1", "2", "3", "800", "0", "4"]
    assert rl_headline(manifest()) == "2,000 RL pairs in blocks of 4, 300 outside the cold start"
    assert page.startswith(f"# x v2: {rl_headline(manifest())}\n")


@pytest.mark.parametrize(
    ("ranks", "columns"),
    [
        ({"unranked": 5}, ["unranked"]),
        ({"outside_band": 6}, ["outside band"]),
        ({"unranked": 5, "outside_band": 6}, ["unranked", "outside band"]),
    ],
)
def test_ranks_have_a_column_only_where_some_source_lost_a_pair_to_them(
    ranks: dict[str, int], columns: list[str]
) -> None:
    rows = [rl_row("mmeb/CIRR", "image", 1, 0), rl_row("llava_hound/qa", "video", 1, 0, **ranks)]

    header, cirr, hound = table(rl_markdown(manifest(rl_table=rows)))

    assert header[8:] == columns
    assert cirr[8:] == ["0"] * len(columns) and hound[8:] == [str(count) for count in ranks.values()]


def test_a_data_set_without_rl_pairs_has_a_page_too() -> None:
    page = rl_markdown(manifest(rl_table=[]))
    assert len(table(page)) == 1 and "0 RL pairs" in page


def test_the_report_is_a_link_where_it_has_an_address_and_a_path_otherwise() -> None:
    served = report_markdown(manifest(), "/out/v2/report/index.html", "/out/v2", "http://127.0.0.1:1/x/index.html")
    alone = report_markdown(manifest(), "/out/v2/report/index.html", "/out/v2")
    assert "](http://127.0.0.1:1/x/index.html)" in served and "](" not in alone
    for page in (served, alone):
        assert page.startswith("# x v2\n") and "    /out/v2/report/index.html\n" in page
        assert "`/out/v2/README.md`" in page
