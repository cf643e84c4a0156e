"""The group that is shown: which one, with what, and what is said where there is none."""

import io
import re
from dataclasses import replace

import orjson
import pytest
from rich.console import Console

from tests.grpo.watch.made import GROUP, block, rollout, trained
from umer1_core.errors import StorageError
from umer1_core.grpo.watch.group import ShownGroup, Wish, show_group
from umer1_core.grpo.watch.rollout_table import Neighbour, RolloutTable
from umer1_core.grpo.watch.show import group_json, print_group


def printed(group: ShownGroup, terminal: bool, width: int = 100) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, highlight=False, no_color=True)
    print_group(group, console)
    return console.file.getvalue()


@pytest.fixture
def made(tmp_path):
    return trained(tmp_path)


def with_rewards(made, changes: dict[tuple[int, str], list[float]]) -> tuple:
    """The last step again, the rewards of some groups changed."""
    store, table, pairs = made
    records = []
    for record in block(pairs):
        number = next(i for i, pair in enumerate(pairs) if pair.pair_id == record.pair_id)
        rewards = changes.get((number, record.side), [1.0, 1.1, 1.2, 1.3])
        records.append(rollout(pairs[number], record.side, record.rollout, reward=rewards[record.rollout]))
    table.write(40, records)
    return store, table, pairs


def test_the_last_steps_group_whose_rewards_spread_most_is_shown(made):
    store, table, pairs = with_rewards(made, {(2, "target"): [0.0, 2.0, 0.0, 2.0], (1, "query"): [0.1] * 4})
    group = show_group(table, store, Wish())
    assert (group.step, group.steps, group.groups) == (40, (1, 40), 8)
    assert (group.pair_id, group.side, group.spread) == (pairs[2].pair_id, "target", 1.0)
    assert [r.record.reward for r in group.rollouts] == [2.0, 2.0, 0.0, 0.0]
    worst = show_group(table, store, Wish(worst=True))
    assert (worst.pair_id, worst.side, worst.spread) == (pairs[1].pair_id, "query", 0.0)
    assert show_group(table, store, Wish(side="query")).side == "query"


def test_a_group_comes_with_its_side_and_what_it_should_find(made):
    store, table, pairs = made
    group = show_group(table, store, Wish(pair=pairs[1].pair_id[:8], side="query"))
    assert (group.own.text, group.own.media) == ("Find a caption", ("1.png",)) and group.other.text == "a blue disc"
    near = group.rollouts[0].nearest
    assert (near[0].right, near[0].side.text, near[0].answer) == (True, "a blue disc", "a blue disc 0")
    assert (near[1].right, near[1].side.known) == (False, False), "a pair that the rl table has no more"


def test_neighbours_with_the_same_target_or_the_same_query_are_right_and_others_are_not(made):
    store, table, pairs = made
    near = tuple(Neighbour(pair.pair_id, 0.5) for pair in pairs)
    table.write(40, [rollout(pair, side, 0, nearest=near) for side in ("query", "target") for pair in pairs])

    def right(number: int, side: str) -> list[bool]:
        group = show_group(table, store, Wish(pair=pairs[number].pair_id, side=side))
        return [n.right for n in group.rollouts[0].nearest]

    assert right(0, "query") == [True, False, False, False]
    assert right(2, "query") == right(3, "query") == right(3, "target") == [False, False, True, True]


def test_a_named_pair_is_looked_for_in_its_own_last_step(made):
    store, table, pairs = made
    table.write(41, block(pairs[:1]))
    assert show_group(table, store, Wish(pair=pairs[3].pair_id)).step == 40
    assert show_group(table, store, Wish(step=1, pair=pairs[0].pair_id)).step == 1


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(step=38), "no rollouts of step 38; there are of 3 steps, 1 to 40. The nearest are 1, 2, 40"),
        (Wish(pair="nobody"), "No step has a pair whose name begins with nobody"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(made, wish, words):
    store, table, _ = made
    with pytest.raises(StorageError) as caught:
        show_group(table, store, wish)
    assert words in str(caught.value)


def test_a_pair_that_is_nearly_named_is_offered(made):
    store, table, pairs = made
    name = pairs[2].pair_id
    with pytest.raises(StorageError) as caught:
        show_group(table, store, Wish(pair=name[:5] + "x" + name[6:]))
    assert name in caught.value.remedy and pairs[0].pair_id not in caught.value.remedy


def test_a_pair_of_another_step_is_answered_with_its_steps(made):
    store, table, pairs = made
    with pytest.raises(StorageError, match="was not in step 1") as caught:
        show_group(table, store, Wish(step=1, pair=pairs[3].pair_id))
    assert caught.value.remedy == "It was in 2, 40."


def test_a_side_that_was_not_sampled_is_said(made):
    store, table, pairs = made
    table.write(41, [rollout(pairs[0], "query", 0)])
    with pytest.raises(StorageError, match="no group of the side target"):
        show_group(table, store, Wish(side="target"))


def test_without_a_training_there_is_nothing_to_show_and_a_step_of_rejected_pairs_has_no_group(made, tmp_path):
    store, table, _ = made
    with pytest.raises(StorageError, match="There are no rollouts in"):
        show_group(RolloutTable(tmp_path / "none"), store, Wish())
    table.write(41, [])
    with pytest.raises(StorageError, match="Step 41 has no rollouts"):
        show_group(table, store, Wish())


# -- printed ---------------------------------------------------------------------------------------------------------


def test_a_pipe_gets_plain_lines_with_everything(made):
    store, table, pairs = made
    text = printed(show_group(table, store, Wish(pair=pairs[0].pair_id, side="query")), terminal=False, width=40)
    assert not set(text) & set("╭│╰─\x1b")
    assert "query   [0.png] Find a caption\n" in text and "target  a red disc\n" in text
    assert "rollout 0  reward 1.50  advantage +1.00  format 1  ranking 1.00  gap 0.50  20 tokens\n" in text
    assert "  It shows a red disc.\n  → a red disc 0\n" in text and "<gen_emb>" not in text
    assert "truncated\n  <think>It [bold]never ends" in text and "23 tokens, cut" in text
    assert f"  ✓ 0.90 {pairs[0].pair_id[:8]} a red disc → a red disc 0\n" in text
    assert "✗ 0.80 gone not in the rl table" in text and "nearest group right 1 of 4" in text
    assert f"--step 40 --pair {pairs[0].pair_id[:8]} --side target" in text


@pytest.mark.parametrize("width", [50, 120, 300])
def test_a_terminal_gets_a_panel_for_each_rollout_inside_its_width(made, width):
    store, table, pairs = made
    text = printed(show_group(table, store, Wish(pair=pairs[0].pair_id)), terminal=True, width=width)
    lines = re.sub(r"\x1b\[\d+m", "", text).splitlines()
    edges = [line for line in lines if line.startswith(("╭", "╰"))]
    assert len(edges) == 2 * GROUP and {len(line) for line in edges} == {min(width, 120)}
    assert "ranking 0.75" in text


def test_what_a_model_wrote_is_no_command_to_the_terminal(made):
    store, table, pairs = made
    table.write(41, [rollout(pairs[0], "query", 0, text="\x1b[2Jgone\x07", problem="no_think", nearest=())])
    text = printed(show_group(table, store, Wish()), terminal=False)
    assert "\x1b" not in text and "\x07" not in text and "[2Jgone" in text


def test_json_holds_everything_once(made):
    store, table, pairs = made
    group = show_group(table, store, Wish(pair=pairs[0].pair_id, side="query"))
    found = orjson.loads(group_json(group))
    first = found["rollouts"][0]
    assert (found["step"], found["own"]["media"], len(found["rollouts"])) == (40, ["0.png"], GROUP)
    assert (first["ranking"], first["problem"], first["nearest"][0]["right"]) == (1.0, "", True)
    assert first["text"] == group.rollouts[0].record.text and "record" not in first


def test_equal_texts_are_shown_once(made):
    store, table, pairs = made
    group = show_group(table, store, Wish(pair=pairs[0].pair_id, side="query"))
    first, second = group.rollouts[:2]
    twin = replace(second, record=replace(second.record, text=first.record.text))
    text = printed(replace(group, rollouts=(first, twin, *group.rollouts[2:])), terminal=False, width=200)
    numbers = sorted((first.record.rollout, second.record.rollout))
    assert f"rollouts {numbers[0]}, {numbers[1]}  reward {first.record.reward:.2f}" in text
    assert text.count("  reward ") == len(group.rollouts) - 1
