"""Where the pairs come from, and what a picture of them must be: the part of a recipe that sampling reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class MmebSource(Section):
    """MMEB-train as downloaded: `root/<Subset>/<split>-*.parquet`, images under `root/`."""

    kind: Literal["mmeb"] = "mmeb"
    root: str = Field(description="Folder that holds the subsets' folders and images/")
    subsets: list[str] = Field(default=[], description="Subset names; empty means every subset found under root")
    split: Literal["original", "diverse_instruction"] = "original"
    limit: int = Field(default=50_000, ge=1, description="Pairs drawn per subset: min(size, limit)")


class LlavaHoundSource(Section):
    """LLaVA-Hound (ShareGPTVideo): `root/video_instruction/train/sft/*.jsonl` and `root/train_300k/`."""

    kind: Literal["llava_hound"] = "llava_hound"
    root: str
    builders: list[Literal["caption_retrieval", "video_retrieval", "qa"]] = [
        "caption_retrieval",
        "video_retrieval",
        "qa",
    ]
    caption_lines: Literal["keep", "drop", "caption"] = Field(
        default="keep",
        description="The 15k captions in the file of questions. keep: as questions, as UME-R1; caption: as captions",
    )
    frames: int = Field(default=8, ge=1, le=64, description="Frames per clip")
    limit: int = Field(default=300_000, ge=1, description="Pairs drawn per builder")


class VidoreSource(Section):
    """ViDoRe colpali_train_set: `root/data/train-*.parquet` with image cells."""

    kind: Literal["vidore"] = "vidore"
    root: str
    limit: int = Field(default=1_000_000, ge=1)


class VisragSource(Section):
    """VisRAG in-domain training data: `root/data/train-*.parquet` with image cells."""

    kind: Literal["visrag"] = "visrag"
    root: str
    limit: int = Field(default=1_000_000, ge=1)


class OwnSource(Section):
    """Your own pairs: JSON lines, Parquet or CSV, media as paths beside the file (README, "Your own data")."""

    kind: Literal["own"] = "own"
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Its pairs are called own/<name>")
    files: list[str] = Field(min_length=1, description="Files or patterns: *.jsonl, *.parquet, *.csv")
    root: str = Field(default="", description="What media paths are relative to; empty: each file's own folder")
    modality: Literal["auto", "image", "video", "visdoc"] = Field(
        default="auto", description="auto: video where a side has a clip, otherwise image"
    )
    query_instruction: str = Field(default="", description="Stands before every query's text")
    target_instruction: str = Field(default="", description="Stands before every target's text")
    frames: int = Field(default=8, ge=1, le=64, description="Frames per clip")
    limit: int = Field(default=1_000_000_000, ge=1)


class Columns(Section):
    """Which column of a data set is which part of a pair; a dot names a field of a struct."""

    id: str = ""
    query_text: str = ""
    query_image: str = ""
    query_video: str = ""
    target_text: str = ""
    target_image: str = ""
    target_video: str = ""
    negative_text: str = ""
    negative_image: str = ""


class DatasetSource(Section):
    """Any data set that `datasets` reads: a hub name or a local folder, with its columns mapped."""

    kind: Literal["dataset"] = "dataset"
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Its pairs are called dataset/<name>")
    path: str = Field(description="What `datasets.load_dataset` is given: a hub name or a folder")
    config: str = ""
    split: str = "train"
    revision: str = ""
    columns: Columns
    root: str = Field(default="", description="What media paths in its cells are relative to")
    modality: Literal["auto", "image", "video", "visdoc"] = "auto"
    query_instruction: str = ""
    target_instruction: str = ""
    frames: int = Field(default=8, ge=1, le=64)
    limit: int = Field(default=1_000_000_000, ge=1)


class ReleasedSource(Section):
    """Released data in the authors' JSON: UME-sft-train, UME-rl-train, RIME-SFT, RIME-RL; a list or lines."""

    kind: Literal["released"] = "released"
    files: list[str] = Field(min_length=1, description="Files or patterns: *.json, *.jsonl")
    root: str = Field(description="What their media paths are relative to")
    responses: bool = Field(default=True, description="Take over the reasoning in the file instead of asking for it")
    limit: int = Field(default=1_000_000_000, ge=1, description="Pairs drawn of each file")


Source = Annotated[
    MmebSource | LlavaHoundSource | VidoreSource | VisragSource | OwnSource | DatasetSource | ReleasedSource,
    Field(discriminator="kind"),
]


class MediaRules(Section):
    """What a picture must be. What is done to it is recorded in its `notes`; the stored bytes are never changed."""

    verify: Literal["header", "decode"] = Field(
        default="header", description="header: and the end of the file; decode: every pixel, about 25 times slower"
    )
    max_pixels: int = Field(
        default=2_359_296, ge=784, description="Larger pictures are shown to models at this size (section 4.1)"
    )
    max_aspect: float = Field(
        default=200.0, gt=1, le=200, description="Longer ones are rejected, as the models' processors do beyond 200"
    )
