"""The recipe: one pydantic model that says everything a run does, read from YAML, shown as a form in the UI.

It is printed in full at the start of a run and stored in the manifest. It holds no secret: keys are named by the
environment variable that has them.
"""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from schemas.grpo import Grpo
from schemas.sources import MediaRules, Section, Source
from schemas.training import Training


def holds_credentials(uri: str) -> bool:
    parts = urlsplit(uri)
    return "://" in uri and ("@" in parts.netloc or bool(parts.query))


class MiniatureWorld(Section):
    """Write the procedural world in the upstream formats before sampling it."""

    root: str = Field(default="runs/miniature-world", description="Where the world is written")
    pairs: int = Field(default=1_600, ge=50, description="Training pairs, about")
    held_out: int = Field(default=240, ge=20, description="Held-out pairs, about")
    seed: int = 0


class Completion(Section):
    """How the annotator samples."""

    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=8_704, ge=16, description="8,192 tokens of reasoning and an answer")
    seed: int = 0


class Embedded(Section):
    """The annotator a run starts, waits for and stops itself when no endpoints are given."""

    backend: Literal["auto", "vllm", "transformers"] = Field(
        default="auto", description="auto: vLLM where it is installed, otherwise transformers"
    )
    max_model_len: int = Field(default=16_384, ge=256)
    max_num_seqs: int = Field(default=64, ge=1)
    kv_cache_gib: int = Field(default=1, ge=1, description="CPU only: memory for the KV cache")
    arguments: list[str] = Field(default=[], description="Further arguments for `vllm serve`")
    start_timeout_s: float = 900


class LoopStop(Section):
    """Ends a completion in the server once its end repeats (vLLM's `repetition_detection`), periods in tokens.

    It changes only completions that the repetition filter drops: the recipe checks that.
    """

    min_period: int = Field(default=1, ge=1)
    max_period: int = Field(default=64, ge=1, description="The server looks for every period at every token")
    min_count: int = Field(default=24, ge=2, description="Contiguous copies that end a completion")


class Ladder(Section):
    """How often a completion that cannot be used (cut, looping, malformed) is asked for again, and how differently."""

    attempts: int = Field(default=2, ge=1, le=10, description="Completions per side at most; 1: as in the paper")
    temperature_step: float = Field(default=0.1, ge=0, le=1, description="Added at every further attempt; at most 2")


class Annotation(Section):
    model: str = Field(
        description="The annotator as the endpoints call it; embedded: a folder, a hub name or `miniature`"
    )
    endpoints: list[str] = Field(
        default=[], description="OpenAI-compatible base URLs, as http://host:8000/v1; empty: embedded"
    )
    endpoints_file: str = Field(
        default="",
        description="A file (any fsspec URI) with a base URL a line, read again during the run: servers come and go",
    )
    api_key_env: str = Field(default="", description="Name of the environment variable with the endpoints' key")
    completion: Completion = Completion()
    ladder: Ladder = Ladder()
    stop_loops: LoopStop | None = Field(default=None, description="vLLM only; {} takes the defaults")
    thinking_budget: int | None = Field(default=None, ge=1, description="vLLM only: tokens before </think> is forced")
    samples: int = Field(default=1, ge=1, description="Completions per distinct side, spread over its uses")
    media: Literal["auto", "reference", "inline"] = Field(
        default="auto", description="reference: the server reads image files itself; auto: where a probe shows it can"
    )
    embedded: Embedded = Embedded()
    concurrency: int = Field(default=512, ge=1, description="Requests in flight per endpoint, at most")
    video_concurrency: int = Field(default=32, ge=1, description="Of these, requests that hold a clip, at most")
    affinity: bool = Field(default=True, description="Sides with equal images go to the same endpoint")
    request_timeout_s: float = Field(default=600, gt=0)
    deadline_s: float = Field(default=1_800, gt=0, description="A side is given up this long after its first failure")
    shard_rows: int = Field(default=8_192, ge=1, description="Distinct sides per shard")
    reuse: list[str] = Field(
        default=[],
        description="Other data sets' versions whose annotations are taken over where side and annotator agree",
    )
    metrics_port: int = Field(default=0, ge=0, le=65_535, description="Prometheus metrics of the run; 0: none")

    @field_validator("endpoints")
    @classmethod
    def _no_credentials(cls, value: list[str]) -> list[str]:
        if any(holds_credentials(endpoint) for endpoint in value):
            raise ValueError("an endpoint must hold no password or key; name its variable in api_key_env")
        return value


# What the preset `strict` adds to the paper's filters; with any preset, what is flagged though it is kept. A stray word
# has two characters or more; the paper's own summaries have at most 80 and copy nothing of the prompt.
STRICT_FILTERS: dict[str, Any] = {
    "max_burst_chars": 1,
    "max_summary_chars": 256,
    "max_prompt_copy": 0.1,
    "drop_commentary": True,
}


class Filters(Section):
    """UME-R1 section 2. Scores are stored, so other thresholds need no new generation.

    Beyond the paper's three, a threshold of 0 drops nothing: what `strict` would drop is recorded as a flag.
    """

    preset: Literal["paper", "strict"] = Field(
        default="paper", description="paper: its three filters; strict: also those below, where they are not set"
    )
    tokenizer: str = Field(default="", description="Counts reasoning tokens; empty: the annotator's own")
    max_reasoning_tokens: int = Field(default=8_192, ge=1)
    # 4 and 20 were weighed on loops of real language models: tests/filtering/data/README.md.
    repeat_min_count: float = Field(default=4, ge=2, description="Contiguous copies of a span that make a loop")
    repeat_min_tokens: int = Field(default=20, ge=16, description="Tokens the copies must cover together")
    max_burst_chars: int = Field(default=0, ge=0, description="Longest run of a script that the input does not have")
    max_summary_chars: int = Field(default=0, ge=0, description="Longest summary")
    max_prompt_copy: float = Field(default=0, ge=0, le=1, description="Share of the reasoning copied from the prompt")
    drop_commentary: bool = Field(default=False, description="Drop summaries that a commentary followed")

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        # Filled in here and not where they are used: the manifest shows what was dropped for.
        return STRICT_FILTERS | given if isinstance(given, dict) and given.get("preset") == "strict" else given


class Publishing(Section):
    shard_rows: int = Field(default=20_000, ge=1)
    rl_pairs: int = Field(default=11_136, ge=0)
    rl_block: int = Field(default=32, ge=1, description="The RL set comes in blocks of so many pairs of one source")
    rl_image_sources: list[str] = Field(
        default=["mmeb/OK-VQA", "mmeb/ChartQA", "mmeb/CIRR", "mmeb/A-OKVQA", "mmeb/Visual7W"],
        description="Image sources the RL set may draw from (appendix D); empty: all",
    )
    rl_ranks: str = Field(default="", description="Parquet with `pair_id` and `rank`: where a model finds each target")
    rl_rank_band: tuple[int, int] = Field(
        default=(1, 1_000_000), description="With rl_ranks: the ranks (1 is best) the RL set may have"
    )

    @field_validator("rl_rank_band")
    @classmethod
    def _low_to_high(cls, band: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= band[0] <= band[1]:
            raise ValueError("give the best rank, 1 or more, and then the worst")
        return band


class Validation(Section):
    min_kept_fraction: float = Field(default=0.5, ge=0, le=1, description="Of the pairs, over the data set")
    min_shard_kept_fraction: float = Field(default=0.2, ge=0, le=1, description="Of the annotations, in every shard")
    max_error_fraction: float = Field(default=0.05, ge=0, le=1, description="Of the annotations, those that failed")
    min_pairs: int = Field(default=1, ge=0, description="Rows in cold_start")
    sample_rows: int = Field(default=10_000, ge=1)
    max_leaked_fraction: float = Field(
        default=0.0, ge=0, le=1, description="Of the pairs, those whose image or clip also stands in `evaluation`"
    )
    max_kept_drift: float = Field(
        default=0.2, ge=0, le=1, description="How far a source's kept share may move from the parent version's"
    )
    max_rejected_fraction: float = Field(
        default=0.2, ge=0, le=1, description="Of a source's drawn rows, those that could not be read; duplicates aside"
    )
    max_repeated_fraction: float = Field(
        default=0.1, ge=0, le=1, description="Of a source's pairs, those whose sides both repeat another pair's"
    )
    min_rl_balance: float = Field(
        default=0.5, ge=0, le=1, description="Of a modality's equal part of the RL set, what it has at least"
    )
    max_chars: int = Field(default=200_000, ge=1, description="Longest prompt or response")
    published_rates: bool = Field(
        default=False, description="Hold kept shares by source against the published ones, within 15 points"
    )


class Evaluation(Section):
    sources: list[Source] = Field(default=[], description="Held-out pairs; empty: training ends without evaluation")
    max_new_tokens: int = Field(default=8_192, ge=8)
    batch: int = Field(default=16, ge=1)


class Recipe(Section):
    """One data set and one model: where pairs come from, how they are annotated, filtered, published, trained on."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", description="Short name, shown in the UI")
    output: str = Field(description="Where the data set's versions are written: a folder or any fsspec URI")
    seed: int = 0
    miniature: MiniatureWorld | None = None
    sources: list[Source] = Field(min_length=1)
    media: MediaRules = MediaRules()
    annotation: Annotation
    filters: Filters = Filters()
    publishing: Publishing = Publishing()
    validation: Validation = Validation()
    training: Training = Training()
    grpo: Grpo = Grpo()
    evaluation: Evaluation = Evaluation()
    workers: int = Field(default=2, ge=1, description="Shards in progress at a time")
    runner: Literal["threads", "ray"] = Field(default="threads", description="Where shards run; ray needs the extra")

    @model_validator(mode="after")
    def _loop_stop_within_filter(self) -> Recipe:
        stop, filters = self.annotation.stop_loops, self.filters
        if stop and (
            stop.min_count < filters.repeat_min_count or stop.min_count * stop.min_period < filters.repeat_min_tokens
        ):
            raise ValueError(
                "annotation.stop_loops would end completions that the repetition filter keeps: raise min_count or "
                "min_period until min_count ≥ filters.repeat_min_count and their product ≥ filters.repeat_min_tokens"
            )
        return self

    @model_validator(mode="after")
    def _reasoning_to_reinforce(self) -> Recipe:
        if self.grpo.enabled and self.training.objective == "dume":
            raise ValueError("grpo rewards what a student writes, and one of training.objective dume writes nothing")
        return self

    @field_validator("output")
    @classmethod
    def _plain_output(cls, value: str) -> str:
        if holds_credentials(value):
            raise ValueError("output must hold no password or key; give the storage's driver its own configuration")
        return value.rstrip("/")

    def dump(self) -> dict[str, Any]:
        return self.model_dump(mode="json")
