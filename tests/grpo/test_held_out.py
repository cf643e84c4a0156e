"""The slice before, while and after: rewards by hand, one look for all that is told, and what a kill leaves."""

import math
import random
from collections.abc import Callable, Sequence
from threading import Barrier, Thread

import numpy as np
import orjson
import pytest
import torch

from tests.grpo.table import TINY, pairs_of, rl_store, saved_student
from tests.student import cold_start_row, small_pairs, small_student
from umer1_core.backbone.collate import Encoder
from umer1_core.backbone.reason import SideEmbedding, embed_sides
from umer1_core.grpo.format import format_problem
from umer1_core.grpo.held_out import HeldOutWatch, reward_scores, well_formed
from umer1_core.grpo.similarity import RewardSettings
from umer1_core.grpo.train import HeldOut, train
from umer1_core.pairs import Side
from umer1_core.template import training_response
from umer1_core.training.ranks import Ranks
from umer1_core.training.watch.log import EVALUATIONS, STEPS, RunLog, read_lines

GOOD = training_response("It is.", "a disc")
LIMIT = 40


@pytest.fixture(scope="module")
def backbone():
    return small_student()


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Four pairs of a source, and one that is alone in its own."""
    rows = [cold_start_row(pair) for pair in small_pairs(tmp_path_factory.mktemp("media"))[:5]]
    for number, row in enumerate(rows):
        row["query_response"] = training_response(f"It shows disc {number}.", f"disc {number}")
    return [*rows[:4], rows[4] | {"source": "test/other"}]


# -- rewards of one greedy rollout a side ------------------------------------------------------------------------------


def says(monkeypatch, backbone, scripts: list[list[int]]) -> None:
    """Put words in an untrained student's mouth: the ids that each row of one batch writes."""
    place, open_rows = 0, list(range(len(scripts)))

    def following(_, states: torch.Tensor) -> torch.Tensor:
        nonlocal place, open_rows
        assert len(states) == len(open_rows)
        said = [scripts[row][place] if place < len(scripts[row]) else backbone.ids.pad for row in open_rows]
        open_rows = [row for row, token in zip(open_rows, said, strict=True) if token != backbone.ids.end_of_turn]
        place += 1
        return torch.tensor(said)

    monkeypatch.setattr("umer1_core.backbone.reason.next_tokens", following)


def test_a_completion_is_well_formed_where_the_format_reward_says_so(backbone, monkeypatch):
    tokenizer, ids = backbone.processor.tokenizer, backbone.ids
    texts = [
        GOOD,
        "It is.",
        GOOD + " and",
        GOOD + "\n",
        "Yes" + GOOD,
        GOOD.replace("\n", ""),
        "",
        GOOD + GOOD,
        "<think>a",
    ]
    scripts = [[*tokenizer(text, add_special_tokens=False)["input_ids"], ids.end_of_turn] for text in texts]
    good = scripts[0][:-1]
    pad = LIMIT - len(good)
    assert pad > 1
    scripts += [
        good,  # goes on with padding
        [*good[:-1], ids.disc, ids.gen, ids.end_of_turn],
        [*good[:3], *[good[3]] * pad, *good[3:]],  # the limit comes right behind the token
        [*good[:3], *[good[3]] * (pad - 1), *good[3:], ids.end_of_turn],  # and here right behind the end of the turn
    ]
    says(monkeypatch, backbone, scripts)
    made = embed_sides(backbone, Encoder(backbone, 1024), [Side(str(i)) for i in range(len(scripts))], "both", LIMIT)
    written = [[*script, *[ids.pad] * LIMIT][:LIMIT] if ids.end_of_turn not in script else script for script in scripts]
    expected = [not format_problem(script, ids, tokenizer.decode) for script in written]
    assert [well_formed(side, LIMIT) for side in made] == expected
    assert expected[0] and expected[-1] and sum(expected) == 3, "a list of refusals would prove little"


def side(vector: Sequence[float], text: str = GOOD) -> SideEmbedding:
    made = torch.nn.functional.normalize(torch.tensor(vector, dtype=torch.float32), dim=0)
    return SideEmbedding(text, made, made, "ok", "ok", 5)


def rows_of(*pairs: tuple[str, str, str]) -> list[dict]:
    return [{"source": s, "query_key": q, "target_key": t, "pair_id": f"{q}{t}"} for s, q, t in pairs]


def test_the_rewards_are_equation_7_of_one_rollout_within_its_source():
    """Similarities by hand: cosines of plane vectors at these angles."""
    angles = {"q1": 0, "t1": 20, "q2": 90, "t2": 30, "q3": 10, "t3": 50, "far": 180}
    sides = {k: side([math.cos(math.radians(a)), math.sin(math.radians(a))]) for k, a in angles.items()}
    records = rows_of(("a", "q1", "t1"), ("a", "q2", "t2"), ("b", "q3", "t3"))
    scores = reward_scores(records, sides, 40, RewardSettings())

    def cos(one: str, other: str) -> float:
        return math.cos(math.radians(angles[one] - angles[other]))

    gaps = [cos("q1", "t1") - cos("q1", "t2"), cos("q2", "t2") - cos("q2", "t1")]
    gaps += [cos("t1", "q1") - cos("t1", "q2"), cos("t2", "q2") - cos("t2", "q1")]
    ranked = [float(gap > 0) for gap in gaps]
    assert sorted(ranked) == [0, 1, 1, 1]
    assert scores["ranking"] == pytest.approx(0.75) and scores["gap"] == pytest.approx(sum(gaps) / 4, abs=1e-6)
    product = sum(r * g for r, g in zip(ranked, gaps, strict=True)) / 4
    assert scores["embedding"] == pytest.approx(product, abs=1e-6) and scores["format"] == 1.0
    alone = reward_scores(records, sides, 40, RewardSettings(form="no_gap"))
    assert alone["embedding"] == pytest.approx(0.75), "the recipe's form"


def test_equal_content_is_no_negative_and_a_bad_form_earns_nothing():
    sides = {"q1": side([1, 0]), "q2": side([0.9, 0.1]), "q3": side([0, 1]), "t": side([1, 0.1]), "u": side([0, 1])}
    shared = rows_of(("a", "q1", "t"), ("a", "q2", "t"), ("a", "q3", "u"))
    assert reward_scores(shared, sides, 40, RewardSettings())["ranking"] == 1.0
    # Two that share their target have nothing to be told from.
    assert reward_scores(shared[:2], sides, 40, RewardSettings()).keys() == {"format"}
    sides["u"] = side([0, 1], "no form")
    scores = reward_scores(shared, sides, 40, RewardSettings())
    # The target t of two pairs keeps its negative query q3; nothing else can be told apart any more.
    assert (scores["format"], scores["ranking"]) == (pytest.approx(4 / 5), pytest.approx(2 / 6))


# -- before, while and after -------------------------------------------------------------------------------------------


def one_rank() -> Ranks:
    return Ranks(0, 1, torch.device("cpu"))


def watching(folder, records, log, ranks=None, **changes) -> HeldOutWatch:
    grpo = TINY.model_copy(update={"evaluate_every": 5, "evaluate_tokens": 4, **changes})
    return HeldOutWatch(grpo, records, folder, log, ranks or one_rank())


def evaluated(folder) -> list[int]:
    return [line["step"] for line in read_lines(folder / EVALUATIONS)]


def test_before_and_after_are_kept_and_told_in_a_report(tmp_path, backbone, records):
    with RunLog(tmp_path) as log:
        watch = watching(tmp_path, records, log)
        watch.before(backbone)
        watch.during(backbone, 5)
        watch.after(backbone, 5, "Step 9: tokens is 3.")
        watch.after(backbone, 5)  # a training that was killed here, and went on
    first, last = (orjson.loads((tmp_path / "held_out" / name).read_bytes()) for name in ("before.json", "after.json"))
    assert (first["step"], last["step"], evaluated(tmp_path)) == (0, 5, [0, 5])
    assert first["queries"] == last["queries"] and [q["pair_id"] for q in first["queries"]] == [
        record["pair_id"] for record in records
    ]
    line = read_lines(tmp_path / EVALUATIONS)[0]
    told = {"hit", "hit_gen", "hit_disc", "oracle", "format", "ranking", "gap", "embedding", "cot_swapped"}
    assert told | {"cot_own_swapped", "completion_tokens"} <= line.keys()
    assert line["cot_rows"] == 10 and line["cot_own_rows"] == 0, "an untrained student writes no form"
    page = (tmp_path / "report.md").read_text()
    assert "0 of 5 queries gained, 0 lost" in page and "learned for 5 steps" in page
    assert orjson.loads((tmp_path / "report.json").read_bytes())["outcome"]["steps"] == 5


def test_the_start_is_looked_at_once_and_again_where_completions_are_longer(tmp_path, backbone, records):
    class Unused:
        """Weights that nobody may look at."""

    with RunLog(tmp_path) as log:
        watching(tmp_path, records, log).before(backbone)
    with RunLog(tmp_path, 40) as log:
        watching(tmp_path, records, log).before(Unused())
        with pytest.raises(AttributeError):
            watching(tmp_path, records, log, evaluate_tokens=5).before(Unused())
    (tmp_path / EVALUATIONS).unlink()  # killed between the two files
    with RunLog(tmp_path, 40) as log:
        watching(tmp_path, records, log).before(Unused())
    assert evaluated(tmp_path) == [0]


@pytest.mark.parametrize("nothing", ["no pairs", "never"])
def test_without_pairs_or_evaluations_nothing_is_written(tmp_path, backbone, records, nothing):
    place = tmp_path / "run"
    place.mkdir()
    with RunLog(place, writes=False) as log:
        watch = watching(place, [], log) if nothing == "no pairs" else watching(place, records, log, evaluate_every=0)
        watch.before(backbone)
        watch.during(backbone, 5)
        watch.after(backbone, 10)
    assert not watch.wanted and not list(place.iterdir())


def test_looking_draws_nothing_and_leaves_the_mode(tmp_path, backbone, records):
    backbone.model.train()
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    with RunLog(tmp_path) as log:
        watching(tmp_path, records, log).during(backbone, 5)
    still_training = backbone.model.training
    backbone.model.eval()
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert still_training and torch.equal(before[0], after[0]) and before[1:] == after[1:]


class ThreadRanks(Ranks):
    """Two ranks as two threads."""

    def __init__(self, rank: int, parts: dict, wait: Barrier) -> None:
        super().__init__(rank, 2, torch.device("cpu"))
        self._parts, self._wait = parts, wait

    def gather_objects(self, local):
        self._parts[self.rank] = list(local)
        self._wait.wait()
        found = [value for rank in (0, 1) for value in self._parts[rank]]
        self._wait.wait()
        return found

    def most(self, value: int) -> int:
        return max(self.gather_objects([value]))

    def barrier(self) -> None:
        self._wait.wait()


def test_ranks_share_the_work_and_say_what_one_says(tmp_path, backbone, records):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with RunLog(tmp_path / "one") as log:
        watching(tmp_path / "one", records, log).before(backbone)
    parts: dict = {}
    wait = Barrier(2, timeout=60)

    def rank(number: int) -> None:
        with RunLog(tmp_path / "two", writes=number == 0) as log:
            watching(tmp_path / "two", records, log, ThreadRanks(number, parts, wait)).before(backbone)

    threads = [Thread(target=rank, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, two = (orjson.loads((tmp_path / name / "held_out" / "before.json").read_bytes()) for name in ("one", "two"))
    assert two == one and evaluated(tmp_path / "two") == [0]


# -- in a training -----------------------------------------------------------------------------------------------------


def trained(folder, steps: int, on_progress: Callable | None = None, **changes):
    folder.mkdir(exist_ok=True)
    store = rl_store(folder, pairs_of(folder))
    grpo = TINY.model_copy(
        update={"steps": steps, "evaluate_every": 1, "evaluate_tokens": 4, "checkpoint_every": 1, **changes}
    )
    return train(store, grpo, str(saved_student(folder)), str(folder / "run"), HeldOut(2, 0), on_progress)


def curve(run) -> list[list[float]]:
    told = ("loss", "reward", "kl", "grad_norm", "tokens")
    return [[line[name] for name in told] for line in read_lines(run / STEPS)]


def test_a_killed_training_looks_at_its_start_once_and_looking_leaves_its_curve(tmp_path):
    class Killed(Exception):
        pass

    def kill(record) -> None:
        if record["step"] == 2:
            raise Killed

    run, plain = tmp_path / "watched" / "run", tmp_path / "plain" / "run"
    with pytest.raises(Killed):
        trained(run.parent, 2, kill)
    first = (run / "held_out" / "before.json").stat().st_mtime_ns
    report = trained(run.parent, 2)
    assert report.resumed_from == 1 and evaluated(run) == [0, 1, 2]
    assert (run / "held_out" / "before.json").stat().st_mtime_ns == first
    assert (run / "report.md").exists() and (run / "report.json").exists()
    trained(plain.parent, 2, evaluate_every=0)
    assert curve(run) == curve(plain) and len(curve(run)) == 2
    assert not (plain / "report.md").exists() and not evaluated(plain)


def test_a_training_that_a_guard_ended_is_judged_by_the_model_it_gives(tmp_path):
    """Every divergence is too large, the first verdict is that of step 3: the model is that of step 1."""
    guards = TINY.guards.model_copy(update={"window": 2, "warm_up": 2, "max_kl": 1e-12})
    report = trained(tmp_path, 5, guards=guards)
    run = tmp_path / "run"
    first, last = (orjson.loads((run / "held_out" / name).read_bytes()) for name in ("before.json", "after.json"))
    assert report.stopped and report.steps == last["step"] == evaluated(run)[-1]
    assert report.steps < 3 and f"The model is that of step {report.steps}." in (run / "report.md").read_text()
    assert last["scores"].keys() == first["scores"].keys()
