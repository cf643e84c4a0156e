"""The sheets of both stages of training."""

from __future__ import annotations

from collections.abc import Sequence

from umer1_core.training.watch.sheet import Frame, Number, Plan, Record, Series, Sheet, mean_of, short, thousands

_BLUE, _ORANGE, _TEAL = ("#2563eb", "#74a8ff"), ("#c96a04", "#f5a04a"), ("#0d8a7f", "#35cdb8")
_GREY, _VIOLET, _ROSE = ("#4b5567", "#c3c9d4"), ("#7048d6", "#ab92f7"), ("#c0266d", "#f47bb4")

_WIDE = (Frame(58, 62, 306, 190), Frame(504, 62, 306, 190))
_SMALL = (Frame(58, 336, 176, 108), Frame(352, 336, 176, 108), Frame(646, 336, 176, 108))
_BELOW = tuple(Frame(frame.left, 528, frame.width, frame.height) for frame in _SMALL)
_NAMED = tuple(Frame(58, top, 150, 108) for top in (336, 528))  # with room for the names of several curves

_EVALUATED = (
    Number("hit_gen", "hit@1 gen", "{:.3f}"),
    Number("hit_disc", "hit@1 disc", "{:.3f}"),
    Number("oracle", "oracle", "{:.3f}"),
    Number("gen_ok", "usable", "{:.0%}"),
    Number("completion_tokens", "tokens", "{:.0f}"),
    Number("cot_swapped", "swapped", "{:.3f}"),
    Number("cot_swapped_all", "all swapped", "{:.3f}"),
    Number("cot_empty", "empty", "{:.3f}"),
    Number("cot_other", "other row", "{:.3f}"),
)


# -- stage 1: fine-tuning --------------------------------------------------------------------------------------------


def _sft_line(record: Record) -> str:
    """`loss 1.23  disc .40  gen .30  token .53  hit@1 .91/.88  12.3k tok/s  waste 1%`.

    hit@1 of the step's own pairs, discriminative before generative.
    """
    parts = [f"{name} {short(record[name])}" for name in ("loss", "disc", "gen", "token") if name in record]
    hits = [short(record[name]) for name in ("hit_disc", "hit_gen") if name in record]
    parts += [f"hit@1 {'/'.join(hits)}"] if hits else []
    parts += [f"{thousands(record['tokens_per_s'])} tok/s"] if record.get("tokens_per_s") else []
    parts += [f"waste {record['waste']:.0%}"] if record.get("waste") is not None else []
    return "  ".join(parts)


def _sft_progress(last: Sequence[Record]) -> list[str]:
    speed, seconds = mean_of(last, "tokens_per_s"), mean_of(last, "seconds")
    said = [] if speed is None else [f"{thousands(speed)} tokens/s"]
    return said + ([] if seconds is None else [f"{seconds:.2g} s a step"])


SFT = Sheet(
    title="Training",
    picture="Curves of losses, hit@1, speed, waste and memory",
    scalars={
        "loss": "loss/total",
        "disc": "loss/disc",
        "gen": "loss/gen",
        "token": "loss/token",
        "cross": "loss/cross",
        "hit_disc": "hit@1/disc",
        "hit_gen": "hit@1/gen",
        "tokens_per_s": "speed/tokens_per_s",
        "seconds": "speed/seconds_per_step",
        "waste": "speed/padding_waste",
        "memory_gb": "speed/memory_gb",
        "packs": "speed/packs",
        "grad_norm": "optimizer/grad_norm",
        "rate": "optimizer/rate",
        "temperature": "optimizer/temperature",
        "skipped": "optimizer/skipped",
        "pairs": "batch/pairs",
        "epoch": "batch/epoch",
    },
    line=_sft_line,
    progress=_sft_progress,
    numbers=(
        Number("loss", "loss", "{:.3f}"),
        Number("disc", "· contrastive, `<disc_emb>`", "{:.3f}"),
        Number("gen", "· contrastive, `<gen_emb>`", "{:.3f}"),
        Number("token", "· next token", "{:.3f}"),
        Number("cross", "· disc(query) against gen(target)", "{:.3f}"),
        Number("hit_disc", "hit@1 of the step's pairs, disc", "{:.3f}"),
        Number("hit_gen", "hit@1 of the step's pairs, gen", "{:.3f}"),
        Number("waste", "padding waste", "{:.1%}", kept=True),
        Number("memory_gb", "memory, peak", "{:.1f} GB"),
    ),
    evaluated=_EVALUATED,
    plans=(
        Plan(
            "Loss",
            _WIDE[0],
            (
                Series("loss", "total", "total"),
                Series("disc", "disc", "disc"),
                Series("gen", "gen", "gen"),
                Series("token", "token", "token"),
            ),
            logarithmic=True,
        ),
        Plan(
            "hit@1",
            _WIDE[1],
            (Series("hit_disc", "disc", "disc", "hit_disc"), Series("hit_gen", "gen", "gen", "hit_gen")),
            "lines: the step's own pairs   ◆ held-out slice",
            top=1.0,
            fixed=True,
        ),
        Plan("Tokens per second", _SMALL[0], (Series("tokens_per_s", "", "one"),), scale=1e-3, unit="k"),
        Plan("Padding waste", _SMALL[1], (Series("waste", "", "one"),), scale=100, unit="%", top=0.02),
        Plan("Memory, peak", _SMALL[2], (Series("memory_gb", "", "one"),), unit=" GB"),
    ),
    height=484,
    tones={"total": _GREY, "disc": _ORANGE, "gen": _BLUE, "token": _TEAL, "one": _VIOLET},
)


# -- stage 2: reinforcement learning ---------------------------------------------------------------------------------


def _grpo_line(record: Record) -> str:
    """`reward 1.32  format .98  ranking .71  gap .45  hit .62  KL .012  entropy .31  83 tokens  2.3 s`.

    The components apart, as a total that rises may do so by the format alone.
    """
    names = ("reward", "format", "ranking", "gap", "hit")
    parts = [f"{name} {short(record[name])}" for name in names if name in record]
    for name, words in (("kl", "KL"), ("entropy", "entropy")):
        parts += [f"{words} {record[name]:.2g}".replace(" 0.", " .")] if record.get(name) is not None else []
    parts += [f"{record['tokens']:.0f} tokens"] if record.get("tokens") is not None else []
    return "  ".join(parts + ([f"{record['seconds']:.2g} s"] if record.get("seconds") else []))


def _grpo_progress(last: Sequence[Record]) -> list[str]:
    """`12 rollouts/s; 2.3 s a step: generate 60%, score 10%, train 30%`."""
    rollouts, seconds = mean_of(last, "rollouts"), mean_of(last, "seconds")
    if not seconds:
        return []
    said = [] if rollouts is None else [f"{thousands(rollouts / seconds)} rollouts/s"]
    shares = {name: mean_of(last, f"{name}_s") for name in ("generate", "score", "train")}
    spent = ", ".join(f"{name} {part / seconds:.0%}" for name, part in shares.items() if part is not None)
    return [*said, f"{seconds:.2g} s a step" + (f": {spent}" if spent else "")]


GRPO = Sheet(
    title="GRPO",
    picture="Curves of rewards, hit@1, KL, entropy, spread, length and seconds",
    scalars={
        "reward": "reward/total",
        "format": "reward/format",
        "ranking": "reward/ranking",
        "gap": "reward/gap",
        "embedding": "reward/embedding",
        "hit": "reward/hit@1",
        "group_std": "reward/group_std",
        "embedding_std": "reward/embedding_std",
        "zero_std": "reward/zero_std",
        "loss": "policy/loss",
        "anchor": "policy/anchor",
        "kl": "policy/kl",
        "entropy": "policy/entropy",
        "clip": "policy/clip",
        "sampler_gap": "policy/sampler_gap",
        "tokens": "completions/tokens",
        "truncated": "completions/truncated",
        "rollouts": "completions/rollouts",
        "rejected": "completions/rejected_pairs",
        "seconds": "speed/seconds_per_step",
        "generate_s": "speed/generate_s",
        "score_s": "speed/score_s",
        "train_s": "speed/train_s",
        "memory_gb": "speed/memory_gb",
        "grad_norm": "optimizer/grad_norm",
        "rate": "optimizer/rate",
        "skipped": "optimizer/skipped",
        "epoch": "optimizer/epoch",
    },
    line=_grpo_line,
    progress=_grpo_progress,
    numbers=(
        Number("reward", "reward", "{:.3f}"),
        Number("format", "· format", "{:.3f}", kept=True),
        Number("embedding", "· embedding", "{:.3f}", kept=True),
        Number("ranking", "ranking", "{:.3f}", kept=True),
        Number("gap", "gap", "{:.3f}", kept=True),
        Number("hit", "rollouts whose nearest group is right", "{:.3f}", kept=True),
        Number("group_std", "spread of the reward within a group", "{:.3f}", kept=True),
        Number("embedding_std", "spread of the embedding reward within a group", "{:.3f}"),
        Number("zero_std", "groups without spread", "{:.1%}", kept=True),
        Number("kl", "KL to the reference", "{:.4f}", kept=True),
        Number("entropy", "entropy", "{:.3f}", kept=True),
        Number("clip", "clipped ratios", "{:.2%}"),
        Number("sampler_gap", "log-probability, sampler against policy", "{:.4f}"),
        Number("anchor", "contrastive anchor", "{:.3f}"),
        Number("tokens", "tokens a completion", "{:.0f}"),
        Number("truncated", "truncated", "{:.1%}", kept=True),
        Number("memory_gb", "memory, peak", "{:.1f} GB"),
    ),
    evaluated=(
        *_EVALUATED,
        Number("format", "format", "{:.3f}"),
        Number("ranking", "ranking", "{:.3f}"),
        Number("gap", "gap", "{:.3f}"),
        Number("cot_own_swapped", "own swapped", "{:.3f}"),
    ),
    plans=(
        Plan(
            "Reward",
            _WIDE[0],
            (
                Series("reward", "total", "total"),
                Series("format", "format", "format"),
                Series("ranking", "ranking", "ranking"),
                Series("gap", "gap", "gap"),
            ),
            "the total, and its components",
            top=1.0,
        ),
        Plan(
            "hit@1",
            _WIDE[1],
            (
                Series("hit", "step", "total"),
                Series("", "disc", "disc", "hit_disc"),
                Series("", "gen", "gen", "hit_gen"),
            ),
            "line: the step's rollouts   ◆ held-out slice",
            top=1.0,
            fixed=True,
        ),
        Plan(
            "Group spread",
            _NAMED[0],
            (Series("group_std", "std", "one"), Series("zero_std", "none", "total")),
            "none: share without",
        ),
        Plan("KL to the reference", _SMALL[1], (Series("kl", "", "one"),)),
        Plan("Entropy", _SMALL[2], (Series("entropy", "", "one"),)),
        Plan(
            "Seconds a step",
            _NAMED[1],
            (
                Series("generate_s", "generate", "generate"),
                Series("score_s", "score", "score"),
                Series("train_s", "train", "train"),
            ),
        ),
        Plan("Completion", _BELOW[1], (Series("tokens", "", "one"),), "tokens"),
        Plan("Truncated", _BELOW[2], (Series("truncated", "", "one"),), scale=100, unit="%", top=0.05),
    ),
    height=676,
    best="best evaluation",
    tones={
        "total": _GREY, "format": _TEAL, "ranking": _VIOLET, "gap": _ROSE, "disc": _ORANGE, "gen": _BLUE,
        "one": _VIOLET, "generate": _VIOLET, "score": _GREY, "train": _ROSE,
    },
)  # fmt: skip
