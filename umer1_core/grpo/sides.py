"""Both sides of RL pairs as prompts, read and encoded in threads, one block ahead of the rollouts.

Guarantee: a pair with a side that cannot be used is a rejection with its reason, and never replaced by another: it
keeps its place in the block and weighs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from umer1_core.backbone.collate import Encoder
from umer1_core.errors import BadInput
from umer1_core.grpo.pairs import RLPairs
from umer1_core.grpo.rollouts.face import Prompt
from umer1_core.pairs import Side, media_from_record
from umer1_core.template import side_text_of_prompt
from umer1_core.training.data.pair_table import Rejection


@dataclass(frozen=True, slots=True)
class PairPrompts:
    """A pair ready for rollouts. prompts: of the query and of the target."""

    pair_id: str
    source: str
    modality: str
    prompts: tuple[Prompt, Prompt]
    query_key: str
    target_key: str

    @property
    def sides(self) -> tuple[Side, Side]:
        """What was reasoned about."""
        query, target = (Side(side_text_of_prompt(prompt.text), prompt.media) for prompt in self.prompts)
        return query, target


class SideReader:
    """Encodes rows of the `rl` table. `ahead` starts with rows that `read` will be asked for next."""

    def __init__(self, pairs: RLPairs, encoder: Encoder, workers: int = 2) -> None:
        self._pairs, self._encoder = pairs, encoder
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="umer1-sides")
        self._begun: dict[int, Future[PairPrompts | Rejection]] = {}

    def ahead(self, rows: Sequence[int]) -> None:
        """Begin with these rows; what was begun and is not among them is dropped."""
        kept = {row: future for row, future in self._begun.items() if row in set(rows)}
        for row, future in self._begun.items():
            if row not in kept:
                future.cancel()
        self._begun = kept | {row: self._pool.submit(self._encode, row) for row in rows if row not in kept}

    def read(self, rows: Sequence[int]) -> list[PairPrompts | Rejection]:
        """In the order asked for."""
        self.ahead(rows)
        return [self._begun[row].result() for row in rows]

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _encode(self, row: int) -> PairPrompts | Rejection:
        (record,) = self._pairs.rows([row])
        names = (record["pair_id"], record["source"])
        try:
            prompts = self._prompt(record, "query"), self._prompt(record, "target")
        except BadInput as error:
            return Rejection(*names, error.reason, error.detail)
        return PairPrompts(*names, record["modality"], prompts, record["query_key"], record["target_key"])

    def _prompt(self, record: dict[str, Any], role: str) -> Prompt:
        text = record[f"{role}_prompt"]
        media = tuple(media_from_record(item) for item in record[f"{role}_media"])
        try:
            if not media and not side_text_of_prompt(text):
                raise BadInput("empty_side", "there is neither text nor a picture to reason about")
            row = self._encoder.encode(text, media)
        except BadInput as error:
            raise BadInput(error.reason, f"{role}: {error.detail}") from error
        return Prompt(record[f"{role}_key"], text, media, row)
