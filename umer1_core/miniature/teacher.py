"""Train the miniature's teacher and save it as a GLM-4.1V checkpoint that vLLM serves.

    OMP_NUM_THREADS=1 python -m umer1_core.miniature.teacher --out DIR

Guarantee: a fixed number of steps, one thread and one seed, so the same machine type gives the same weights.
Recipe and its measurements: shared/reference/miniature.md. The shipped weights lie in `umer1_core/miniature/teacher/`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, Glm4vForConditionalGeneration, PreTrainedTokenizerFast

from umer1_core.miniature.teacher_data import BatchMaker
from umer1_core.miniature.teacher_model import new_teacher, reply_logits, teacher_config
from umer1_core.miniature.teacher_text import train_tokenizer, write_processors

TEACHER = Path(__file__).parent / "teacher"
STEPS, BATCH, SEED = 2300, 32, 7
MUON_RATE, ADAM_RATE = 5e-3, 4e-3
WARM_UP, DECAY_FROM, FULL_PROMPT_FROM = 40, 0.5, 0.8
_CLIP = 1.0


def train_teacher(
    steps: int = STEPS, seed: int = SEED
) -> tuple[Glm4vForConditionalGeneration, PreTrainedTokenizerFast]:
    """Train from nothing; deterministic on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(seed)
    model = new_teacher(teacher_config(tokenizer.get_vocab()))
    optimizers = _optimizers(model)
    batches = BatchMaker(tokenizer, seed)
    with _progress() as progress:
        task = progress.add_task("teacher", total=steps, loss=0.0)
        average = 0.0
        for step in range(steps):
            loss = _step(model, optimizers, batches, step / steps, step)
            average = 0.98 * average + 0.02 * loss if step else loss
            progress.update(task, advance=1, loss=average)
    return model, tokenizer


def _step(
    model: Glm4vForConditionalGeneration,
    optimizers: Iterable[tuple[torch.optim.Optimizer, float]],
    batches: BatchMaker,
    done: float,
    step: int,
) -> float:
    batch = batches.draw(BATCH, full_prompt=done >= FULL_PROMPT_FROM or step % 20 == 0)
    logits = reply_logits(model, batch.tokens, batch.positions, batch.patches, batch.order, batch.wanted)
    loss = (cross_entropy(logits, batch.labels, reduction="none") * batch.weights).sum() / batch.weights.sum()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
    for optimizer, rate in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate * _schedule(done, step)
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def _schedule(done: float, step: int) -> float:
    """Warm-up, then level, then a linear decay."""
    return min(1.0, (step + 1) / WARM_UP, max(0.02, (1 - done) / (1 - DECAY_FROM)))


def _optimizers(model: Glm4vForConditionalGeneration) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the matrices inside the network, AdamW for embeddings, biases, norms and convolutions."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    muon = torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.01)
    adam = torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    return [(muon, MUON_RATE), (adam, ADAM_RATE)]


def save_teacher(model: Glm4vForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write the checkpoint in bf16, with tokenizer, processors and generation defaults."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = [tokenizer.convert_tokens_to_ids(name) for name in ("<|endoftext|>", "<|user|>")]
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ends[0], do_sample=False)
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_processors(folder)
    (folder / "model.safetensors").chmod(0o644)


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the miniature's teacher.")
    parser.add_argument("--out", type=Path, default=TEACHER, help="where the checkpoint goes")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    save_teacher(*train_teacher(arguments.steps), arguments.out)


if __name__ == "__main__":
    main()
