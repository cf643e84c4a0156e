"""LLaVA-Hound (ShareGPTVideo): `root/video_instruction/train/sft/*.jsonl` and `root/train_300k/`.

Three builders with upstream's texts: caption_retrieval (clip and prompt to caption), video_retrieval (caption to clip)
and qa (clip and question to answer, over the whole 240k file, its caption lines included). Frames lie in folders or
in chunk_N.tar.gz, which need not be unpacked. A row's key is the clip with both turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from schemas.recipe import LlavaHoundSource
from umer1_core.errors import BadInput, SourceError
from umer1_core.media import clip_from_folder, safe_join
from umer1_core.pairs import Media
from umer1_core.sampling.clips import ArchivedClip, index_archives
from umer1_core.sampling.instructions import (
    VIDEO_QUESTION,
    VIDEO_RETRIEVAL_QUERY,
    VIDEO_RETRIEVAL_TARGET,
    VIDEO_TOKEN,
)
from umer1_core.sampling.rows import RawRow, RawSide, Refused, SourceSpec, checked, require_folder

_FILES = {
    "caption_retrieval": "video_caption_300k.jsonl",
    "video_retrieval": "video_caption_300k.jsonl",
    "qa": "video_240k_caption_15k.jsonl",
}


def list_llava_hound(config: LlavaHoundSource) -> list[SourceSpec]:
    """One unit per builder."""
    root = require_folder(config.root, "llava_hound")
    for path in (*(_file(root, builder) for builder in config.builders), root / "train_300k"):
        if not path.exists():
            raise SourceError(
                f"llava_hound: there is no {path}.",
                "Download ShareGPTVideo/train_video_and_instruction there, or correct `root` or `builders`.",
            )
    return [SourceSpec(f"llava_hound/{b}", "video", config, config.limit, b) for b in config.builders]


@dataclass(frozen=True)
class LlavaHound:
    """The rows of one builder."""

    root: Path
    builder: str
    frames: int

    def rows(self) -> Iterator[RawRow | Refused]:
        file = _file(self.root, self.builder)
        with open(file, "rb") as lines:
            for number, line in enumerate(lines):
                if line.strip():
                    yield self._row(line, str(file), number)

    def place(self, reference: str) -> tuple[str, int]:
        clip = None if reference in self._folders else self._archived.get(reference)
        return (clip.uri, clip.offset) if clip else ("", 0)

    def locate(self, reference: str) -> Media:
        folder = safe_join(self._clips, reference)
        if reference in self._folders:
            return clip_from_folder(folder, self.frames)
        if clip := self._archived.get(reference):
            return Media("video", clip.uri, frames=clip.frames)
        raise BadInput("media_missing", f"there is no folder {folder}, nor is the clip in a chunk_N.tar.gz beside it")

    @property
    def _clips(self) -> Path:
        return self.root / "train_300k"

    @cached_property
    def _folders(self) -> frozenset[str]:
        return frozenset(entry.name for entry in self._clips.iterdir() if entry.is_dir())

    @cached_property
    def _archived(self) -> dict[str, ArchivedClip]:
        """Read only when a clip has no folder: indexing an archive reads it once from end to end."""
        return index_archives(self._clips, self.frames)

    def _row(self, line: bytes, file: str, number: int) -> RawRow | Refused:
        source = f"llava_hound/{self.builder}"
        try:
            video, said, answered = _turns(orjson.loads(line))
        except (orjson.JSONDecodeError, KeyError, IndexError, TypeError, AttributeError) as error:
            detail = f"row {number} of {file} is no record with `video` and two conversation turns: {error!r:.120}"
            return Refused(source, f"{Path(file).name}#{number}", "bad_record", detail)
        query, target = _sides(self.builder, video, said, answered)
        row = RawRow(source, f"{video}\x1f{said}\x1f{answered}", file, number, query, target)
        return checked(row) if video else row.refuse("media_missing", f"video of row {number} of {file} is empty")


def _turns(record: Any) -> tuple[str, str, str]:
    turns = [turn["value"].replace(VIDEO_TOKEN, "").strip() for turn in record["conversations"][:2]]
    return record["video"].strip(), turns[0], turns[1]


def _sides(builder: str, video: str, said: str, answered: str) -> tuple[RawSide, RawSide]:
    """Query and target. A missing turn leaves its side empty: an instruction alone is no query."""
    if builder == "caption_retrieval":
        return RawSide(said, video, "video"), RawSide(answered, "", "conversations[1]")
    if builder == "video_retrieval":
        query = RawSide(VIDEO_RETRIEVAL_QUERY + answered if answered else "", "", "conversations[1]")
        return query, RawSide(VIDEO_RETRIEVAL_TARGET, video, "video")
    query = RawSide(VIDEO_QUESTION + said, video, "video") if said else RawSide("", "", "conversations[0]")
    return query, RawSide(answered, "", "conversations[1]")


def _file(root: Path, builder: str) -> Path:
    return root / "video_instruction" / "train" / "sft" / _FILES[builder]
