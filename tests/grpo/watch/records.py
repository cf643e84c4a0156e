"""Made-up records of a GRPO training, for the tests of what it shows."""

import math

import numpy as np


def steps(count: int, seed: int = 0, noise: float = 1.0, collapse_from: int = 0, **changes) -> list[dict]:
    """As a training that learns leaves them, or one whose embedding collapses while its format goes on rising.

    noise: of the ranking and the gap from step to step, times what sources of unlike difficulty bring.
    """
    random = np.random.default_rng(seed)
    return [_step(i, random, noise, collapse_from) | changes for i in range(1, count + 1)]


def evaluation(step: int, hit: float, **changes) -> dict:
    scores = {"hit_gen": hit, "hit_disc": 0.88, "hit": (hit + 0.88) / 2, "gen_ok": 0.99, "completion_tokens": 41.0}
    return {"step": step, **scores, "cot_swapped": 0.91, "cot_empty": 0.94, "cot_other": 0.3} | changes


def _step(number: int, random: np.random.Generator, noise: float, collapse_from: int) -> dict:
    learned = 1 - math.exp(-number / 60)
    lost = max(0, number - collapse_from) / 30 if collapse_from else 0.0
    ease = noise * random.normal()
    form = min(1.0, 0.9 + 0.08 * learned + 0.03 * lost + 0.02 * noise * random.normal())
    ranking = float(np.clip(0.7 + 0.12 * learned - 0.3 * lost + 0.15 * ease, 0, 1))
    gap = float(np.clip(0.4 + 0.1 * learned - 0.2 * lost + 0.1 * ease, -1, 1))
    seconds = {"generate_s": 1.4 + 0.1 * random.normal(), "score_s": 0.2, "train_s": 0.8 + 0.05 * random.normal()}
    return {
        "step": number,
        "epoch": 0,
        "loss": 0.01 * random.normal(),
        "reward": form + ranking * gap,
        "format": form,
        "ranking": ranking,
        "gap": gap,
        "embedding": ranking * gap,
        "hit": float(np.clip(ranking - 0.1, 0, 1)),
        "group_std": 0.25 + 0.03 * random.normal(),
        "zero_std": max(0.0, 0.05 + 0.03 * random.normal()),
        "kl": 0.02 * learned * (1 + 0.3 * random.normal()),
        "entropy": 0.3 - 0.1 * learned + 0.02 * random.normal(),
        "clip": 0.001,
        "tokens": 40 + 4 * learned + 3 * random.normal(),
        "truncated": max(0.0, 0.02 + 0.02 * random.normal()),
        "grad_norm": 0.4,
        "rate": 3e-5,
        **seconds,
        "seconds": sum(seconds.values()),
        "rollouts": 128,
        "rejected": 0,
        "memory_gb": 1.9,
    }
