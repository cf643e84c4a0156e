"""From the engine to the published tables and their account: samples, the ladder, failures and dead letters."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from schemas.recipe import Annotation, Filters, Publishing
from tests.annotation.stand_in import read_stats, stand_in
from umer1_core.annotation.annotator import annotator_fingerprint
from umer1_core.annotation.engine import annotate_shard
from umer1_core.annotation.plan import ParentAnnotations
from umer1_core.filtering import filter_shard
from umer1_core.pairs import Pair, Side, pair_id, pair_record
from umer1_core.publishing.funnel import check_totals, funnel
from umer1_core.publishing.ledger import ledger
from umer1_core.publishing.rl import publish_rl
from umer1_core.publishing.tables import publish_cold_start
from umer1_core.store import Store
from umer1_core.validation.totals import identities

SOURCE = "own/x"
PROBLEMS = ["cut once fault:cut*1", "shapeless once fault:malformed*1", "loops once fault:repetition*1"]
HOPELESS = ["always cut fault:cut", "poison"]
GOOD = [f"query {number}" for number in range(25)]
QUERIES = [*PROBLEMS, *HOPELESS, *GOOD]
TARGET = "the target of all"  # 30 uses, so three samples


@pytest.fixture(scope="module")
def address():
    with stand_in(refuse_word="poison") as address:
        yield address


@pytest.fixture(scope="module")
def made(address: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return make(tmp_path_factory.mktemp("line") / "v1", address)


def make(root: Path, address: str, parent: ParentAnnotations | None = None, samples: int = 3) -> Store:
    """Every query once with the same target; annotated, filtered and published."""
    store = Store(str(root))
    pairs = [Pair(pair_id(SOURCE, text), SOURCE, "image", Side(text), Side(TARGET)) for text in QUERIES]
    store.write_shard("pairs", "own-x-00000", [pair_record(pair) for pair in pairs])
    counts = {SOURCE: {"read": len(pairs), "not_drawn": 0}}
    store.write_shard("rejections", "own-x", [], modality="image", by_source=counts)
    uses = dict.fromkeys(QUERIES, 1) | {TARGET: len(QUERIES)}
    shared = {"source": SOURCE, "modality": "image", "media": []}
    sides = [shared | {"side_key": Side(text).key, "text": text, "uses": n} for text, n in uses.items()]
    store.write_shard("sides", "00000", sides)
    endpoint = f"{address}/v1"
    annotation = Annotation(model="stand-in", endpoints=[endpoint], samples=samples)
    annotate_shard(store, "00000", annotation, [endpoint], root / "journal", "f", parent)
    # Every word is the same token to it: the limit keeps all but what the server itself called a loop.
    words = Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    filter_shard(store, "00000", Filters(repeat_min_count=1_000), words)
    publish_cold_start(store, 10)
    publish_rl(store, Publishing(rl_pairs=100, rl_image_sources=[]), 0)
    return store


def test_every_identity_between_the_tables_holds(made: Store) -> None:
    assert [row for row in identities(made) if row["difference"]] == []
    assert check_totals(funnel(made)) == []


def test_a_shared_side_has_samples_and_its_pairs_take_them_in_turn(made: Store) -> None:
    samples = [row["sample"] for row in made.iterate("annotations") if row["side_key"] == Side(TARGET).key]
    assert samples == [0, 1, 2]
    assert made.read("annotations").num_rows == len(QUERIES) + 3


def test_pairs_are_kept_once_and_dropped_for_what_was_wrong(made: Store) -> None:
    (row,) = funnel(made)
    assert (row.pairs, row.kept, row.cold_start, row.dropped_pairs) == (30, 28, 28, 2)
    assert row.dropped == {"not_annotated": 1, "truncated": 1, "unclosed_think": 1}


def test_the_account_has_every_request_that_was_sent(made: Store, address: str) -> None:
    account = ledger(made)
    requests = {outcome: tally["requests"] for outcome, tally in account["outcomes"].items()}
    assert requests == {"useful": 31, "rejected": 1, "cut": 2, "loop": 1, "malformed": 1, "failed": 1}
    (entry,) = made.entries("annotations")
    assert sum(requests.values()) == entry.metrics["requests"] == made.read("attempts").num_rows
    assert account["saved"]["equal_sides"] == {"requests": 27, "prompt_tokens": 270, "completion_tokens": 540}
    assert (account["annotated"], account["failed"]) == (30, 1)


def test_what_the_next_version_takes_over_is_no_request_of_its_own(made: Store, address: str, tmp_path: Path) -> None:
    annotation = Annotation(model="stand-in", endpoints=[f"{address}/v1"], samples=3)
    parent = ParentAnnotations([made], annotator_fingerprint(annotation), only_kept=True)
    before = read_stats(address)["requests"]

    second = make(tmp_path / "v2", address, parent)

    account = ledger(second)
    assert [row for row in identities(second) if row["difference"]] == []
    assert account["saved"]["taken_over"]["requests"] == 31
    assert read_stats(address)["requests"] - before == second.read("attempts").num_rows == 3, "cut twice, refused once"
    assert second.read("cold_start").equals(made.read("cold_start"))
