"""What a recipe needs of the hub: which files of which repository, and the folder where its source looks for them.

Files keep the path that they have in their repository: that is the layout which the readers of `umer1_core.sampling`
know. Own data, data sets in local folders and media of the released JSON are nobody's to fetch here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from schemas.recipe import Recipe
from schemas.sources import (
    DatasetSource,
    LlavaHoundSource,
    MmebSource,
    ReleasedSource,
    Source,
    VidoreSource,
    VisragSource,
)
from umer1_core.errors import RecipeError
from umer1_core.media import local_path
from umer1_core.upstream import MMEB_SUBSETS

MMEB = "TIGER-Lab/MMEB-train"
LLAVA_HOUND = "ShareGPTVideo/train_video_and_instruction"
VIDORE = "vidore/colpali_train_set"
VISRAG = "openbmb/VisRAG-Ret-Train-In-domain-data"
_RELEASED = {
    "UME-sft-train.json": "zhibinlan/UME-sft-train",
    "UME-rl-train.json": "zhibinlan/UME-rl-train",
    "RIME-rl.json": "leafyseay/RIME-Train",
}
_RIME_SFT = "RIME-SFT"
_CAPTIONS, _QUESTIONS = "video_caption_300k.jsonl", "video_240k_caption_15k.jsonl"
_TEXTS = "video_instruction/train/sft/"
_CELLS = r"data/train-.*\.parquet"
_FOLDERS = {"mmeb": "MMEB-train", "llava_hound": "LLaVA-Hound", "vidore": "colpali_train_set", "visrag": "visrag"}


@dataclass(frozen=True, slots=True)
class Want:
    """Files of one unit of a source. `patterns` match whole paths in the repository.

    unpacked: folders under the root that hold what the archives among the files do, where somebody unpacked them.
    least: patterns of which at least one file must be found.
    """

    unit: str
    repo: str
    root: str
    patterns: tuple[str, ...]
    least: tuple[str, ...]
    revision: str = "main"
    unpacked: tuple[str, ...] = ()

    def takes(self, path: str) -> bool:
        return any(re.fullmatch(pattern, path) for pattern in self.patterns)


def list_wants(recipe: Recipe, only: Sequence[str] = (), to: str = "") -> list[Want]:
    """Of the training and the evaluation sources, each unit and folder once.

    only: names of units (`mmeb/OK-VQA`) or of kinds (`mmeb`). to: a folder that takes the place of all roots.
    Raises RecipeError for a root that is no folder of this machine, and for a name that no source has.
    """
    sources = [*recipe.sources, *recipe.evaluation.sources]
    wants = list(dict.fromkeys(want for source in sources for want in _wants(source, to)))
    for name in only:
        if not any(_named(want, name) for want in wants):
            known = sorted({want.unit for want in wants} | {want.unit.split("/")[0] for want in wants})
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(known) or 'none'}."
            raise RecipeError(f"--only {name}: no source of the recipe that lies on the hub is called so.", hint)
    chosen = [want for want in wants if not only or any(_named(want, name) for name in only)]
    return [replace(want, root=_local(want)) for want in chosen]


def archives_of(folder: str) -> str:
    """The pattern of MMEB-train's archives of an image folder; `MSCOCO` must not take `MSCOCO_i2t.zip`."""
    return rf"(.*/)?{re.escape(folder)}([._-](part)?\d+)?\.(zip|tar|tar\.gz)"


def _wants(source: Source, to: str) -> Iterable[Want]:
    if isinstance(source, MmebSource):
        root = _root(source.root, to, source.kind)
        return [_mmeb(subset, source.split, root) for subset in source.subsets or MMEB_SUBSETS]
    if isinstance(source, LlavaHoundSource):
        root = _root(source.root, to, source.kind)
        return [_hound(builder, root) for builder in source.builders]
    if isinstance(source, VidoreSource):
        root = _root(source.root, to, source.kind)
        return [Want("vidore/colpali_train_set", VIDORE, root, (_CELLS,), (_CELLS,))]
    if isinstance(source, VisragSource):
        return [Want("visrag", VISRAG, _root(source.root, to, source.kind), (_CELLS,), (_CELLS,))]
    if isinstance(source, ReleasedSource):
        return [want for file in source.files for want in _released(file, to)]
    return [_dataset(source)] if isinstance(source, DatasetSource) and not Path(source.path).exists() else []


def _mmeb(subset: str, split: str, root: str) -> Want:
    rows = rf"{re.escape(subset)}/{split}-.*\.parquet"
    pictures = (archives_of(subset), rf"images/{re.escape(subset)}/.+")
    return Want(f"mmeb/{subset}", MMEB, root, (rows, *pictures), (rows,), unpacked=(f"images/{subset}",))


def _hound(builder: str, root: str) -> Want:
    texts = re.escape(_TEXTS + (_QUESTIONS if builder == "qa" else _CAPTIONS))
    frames = r"train_300k/chunk_\d+\.tar\.gz"
    return Want(
        f"llava_hound/{builder}", LLAVA_HOUND, root, (texts, frames), (texts, frames), unpacked=("train_300k/*",)
    )


def _released(file: str, to: str) -> Iterable[Want]:
    """A file is known by its name; of RIME's supervised sets by their folder."""
    path = Path(file)
    repo = _RELEASED.get(path.name) or ("leafyseay/RIME-Train" if path.parent.name == _RIME_SFT else "")
    if not repo or "*" in path.name:
        return
    inside = f"{path.parent.name}/{path.name}" if path.parent.name.startswith("RIME-") else path.name
    root = str(path)[: -len(inside)] if str(path).endswith(inside) else str(path.parent)
    yield Want(f"released/{path.stem}", repo, to or root.rstrip("/"), (re.escape(inside),), (re.escape(inside),))


def _dataset(source: DatasetSource) -> Want:
    """Whole, into the hub's own cache, where `datasets` looks for it."""
    return Want(f"dataset/{source.name}", source.path, "", (".+",), (".+",), source.revision or "main")


def _named(want: Want, name: str) -> bool:
    return name in (want.unit, want.unit.split("/")[0])


def _root(root: str, to: str, kind: str) -> str:
    return f"{to.rstrip('/')}/{_FOLDERS[kind]}" if to else root


def _local(want: Want) -> str:
    path = local_path(want.root)
    if path is None:
        raise RecipeError(
            f"{want.unit}: its root is not a folder of this machine.", "Give --to FOLDER, and copy it from there."
        )
    return path and str(Path(path).expanduser().absolute())
