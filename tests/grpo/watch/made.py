"""A small data set with an `rl` table, and rollouts of three steps over it."""

from pathlib import Path

from umer1_core.grpo.watch.rollout_table import Neighbour, RolloutRecord, RolloutTable, SideName
from umer1_core.pairs import Media, Pair, Side, pair_id, side_record
from umer1_core.store import Store
from umer1_core.template import training_prompt, training_response

GROUP = 4
STEPS = (1, 2, 40)


def small_pairs() -> list[Pair]:
    """Four pairs; the last two share their target."""
    targets = ["a red disc", "a blue disc", "a green disc", "a green disc"]
    return [
        Pair(
            pair_id("test/caption", str(number)),
            "test/caption",
            "image",
            Side("Find a caption", (Media("image", f"/media/{number}.png", content_hash=str(number)),)),
            Side(target),
        )
        for number, target in enumerate(targets)
    ]


def rl_store(folder: Path, pairs: list[Pair]) -> Store:
    store = Store(str(folder / "data" / "v1"))
    store.write_shard("rl", "00000", [_rl_row(pair) for pair in pairs])
    store.write_json("version.json", {})
    return store


def rollout(pair: Pair, side: SideName, place: int, **changes) -> RolloutRecord:
    """The first rollout of a group is right and the best; the last one is malformed."""
    malformed, ranking = place == GROUP - 1, 1.0 - place / 4
    gap = 0.0 if malformed else 0.5
    ranking = 0.0 if malformed else ranking
    own = pair.query if side == "query" else pair.target
    text = training_response(f"It shows {pair.target.text}.", f"{pair.target.text} {place}") + "<|im_end|>"
    values = {
        "pair_id": pair.pair_id,
        "source": pair.source,
        "modality": pair.modality,
        "side": side,
        "side_key": own.key,
        "rollout": place,
        "text": "<think>It [bold]never ends" if malformed else text,
        "problem": "truncated" if malformed else "",
        "tokens": 20 + place,
        "ended": not malformed,
        "format": float(not malformed),
        "ranking": ranking,
        "gap": gap,
        "embedding_reward": ranking * gap,
        "reward": float(not malformed) + ranking * gap,
        "advantage": 1.0 - place,
        "hit": place == 0,
        "nearest": () if malformed else (Neighbour(pair.pair_id, 0.9), Neighbour("gone", 0.8)),
    }
    return RolloutRecord(**(values | changes))


def block(pairs: list[Pair]) -> list[RolloutRecord]:
    sides: tuple[SideName, SideName] = ("query", "target")
    return [rollout(pair, side, place) for side in sides for pair in pairs for place in range(GROUP)]


def trained(folder: Path) -> tuple[Store, RolloutTable, list[Pair]]:
    """A store whose training has left rollouts of STEPS."""
    pairs = small_pairs()
    store = rl_store(folder, pairs)
    table = RolloutTable(Path(store.path) / "grpo" / "rollouts", done=0)
    for step in STEPS:
        table.write(step, block(pairs if step > 1 else pairs[:2]))
    return store, table, pairs


def _rl_row(pair: Pair) -> dict:
    row = {"pair_id": pair.pair_id, "source": pair.source, "modality": pair.modality, "origin": "rejected", "block": 0}
    for name, side in (("query", pair.query), ("target", pair.target)):
        row |= {
            f"{name}_key": side.key,
            f"{name}_prompt": training_prompt(side.text),
            f"{name}_media": side_record(side)["media"],
        }
    return row | {"row": "", "negatives": []}
