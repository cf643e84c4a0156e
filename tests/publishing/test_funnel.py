"""Every row is accounted for."""

from dataclasses import replace

import fsspec

from schemas.recipe import Publishing
from umer1_core.publishing.funnel import check_totals, funnel
from umer1_core.publishing.ledger import ledger
from umer1_core.publishing.rl import publish_rl
from umer1_core.publishing.tables import publish_cold_start
from umer1_core.store import Store


def test_the_funnel_says_where_every_row_of_a_source_went(judged):
    publish_cold_start(judged, 100)
    publish_rl(judged, Publishing(rl_pairs=8, rl_image_sources=["mmeb/CIRR"]), 0)
    rows = {row.source: row for row in funnel(judged)}
    cirr = rows["mmeb/CIRR"]
    assert (cirr.modality, cirr.read, cirr.not_drawn, cirr.pairs) == ("image", 9, 2, 6)
    assert cirr.rejected == {"empty_query": 1}
    assert (cirr.kept, cirr.dropped_pairs, cirr.cold_start) == (4, 2, 4)
    assert cirr.dropped == {"no_think": 2, "repetition": 2}
    assert sum(row.rl for row in rows.values()) == 8 and rows["mmeb/NIGHTS"].rl == 0
    assert check_totals(list(rows.values())) == []


def test_totals_that_do_not_add_up_are_said(judged):
    publish_cold_start(judged, 100)
    row = funnel(judged)[0]
    broken = check_totals([replace(row, read=10), replace(row, kept=5)])
    assert [line.split(": ")[1].split(",")[0] for line in broken] == ["10 rows read", "6 pairs", "5 pairs kept"]


def test_a_side_without_a_verdict_drops_its_pairs(judged):
    judged.delete("entries/verdicts/00000.json")
    row = funnel(judged)[0]
    assert (row.kept, row.dropped_pairs, row.dropped) == (0, 6, {"no_verdict": 6})


def test_an_empty_data_set_has_an_empty_funnel(tmp_path):
    assert funnel(Store(str(tmp_path))) == []


def test_a_store_that_is_no_folder_gives_the_same(judged):
    memory = fsspec.filesystem("memory")
    for name in judged.fs.find(judged.path):
        memory.pipe_file("/copy" + name.removeprefix(judged.path), judged.fs.cat_file(name))
    copy = Store("memory://copy")
    assert [e.rows for e in publish_cold_start(copy, 5)] == [e.rows for e in publish_cold_start(judged, 5)]
    assert copy.read("cold_start").equals(judged.read("cold_start"))
    assert funnel(copy) == funnel(judged) and ledger(copy) == ledger(judged)
