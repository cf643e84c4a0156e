"""The world on disk, in the layouts of the four upstream sources, with the truth beside it.

Guarantee: the same (n, seed, split) gives the same bytes; no picture, page or clip combination of another split
occurs. Layouts: MMEB-train, LLaVA-Hound (some clips only inside the archive), ViDoRe and VisRAG training sets.
`truth.parquet`: a row per side of a record, found again by its text and the blake3 digests of its media files.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from umer1_core.media import choose_frames
from umer1_core.miniature.instructions import IMAGE_TOKEN, VIDEO_PROMPTS, VIDEO_QUESTION, VIDEO_TOKEN
from umer1_core.miniature.rendering import jpeg, png, render_frames, render_image
from umer1_core.miniature.samples import PairSample, SideSample, clip_side, draw_pair, text_side, video_retrieval
from umer1_core.miniature.world import Clip, Scene, Split

# Share of the pairs. A caption record of LLaVA-Hound makes two pairs, one in each direction.
SHARES = {
    "mmeb/MSCOCO_i2t": 0.14,
    "mmeb/MSCOCO_t2i": 0.14,
    "mmeb/OK-VQA": 0.09,
    "mmeb/A-OKVQA": 0.08,
    "mmeb/CIRR": 0.09,
    "mmeb/ImageNet_1K": 0.06,
    "llava_hound/caption_retrieval": 0.14,
    "llava_hound/qa": 0.08,
    "vidore/colpali_train_set": 0.09,
    "visrag": 0.09,
}
_NEGATIVES = {"OK-VQA", "A-OKVQA"}
_SHARE_IN_ARCHIVE = 0.1
_CAPTIONS_AMONG_QUESTIONS = 0.05
_FRAME_COUNTS = (8, 8, 8, 10, 12)

TRUTH = pa.schema(
    [
        ("source", pa.string()),
        ("query_text", pa.string()),
        ("target_text", pa.string()),
        ("side", pa.string()),
        ("kind", pa.string()),
        ("text", pa.string()),
        ("media_blake3", pa.list_(pa.string())),
        ("attributes", pa.list_(pa.string())),
        ("summary", pa.string()),
    ]
)
_IMAGE_CELL = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@dataclass
class _Writer:
    """Where the world goes, its one random state, and the truth so far."""

    root: Path
    rng: random.Random
    split: Split
    truth: list[dict[str, Any]] = field(default_factory=list)

    def note(self, pair: PairSample, query_media: list[bytes], target_media: list[bytes]) -> None:
        """Record the truth of both sides."""
        for name, side, media in (("query", pair.query, query_media), ("target", pair.target, target_media)):
            self.truth.append(
                {
                    "source": pair.source,
                    "query_text": pair.query.text,
                    "target_text": pair.target.text,
                    "side": name,
                    "kind": side.kind,
                    "text": side.text,
                    "media_blake3": [blake3(data).hexdigest() for data in media],
                    "attributes": list(side.attributes),
                    "summary": side.summary,
                }
            )


def write_world(root: Path, n: int, seed: int, split: Split = "train") -> None:
    """Write about `n` pairs of a split under `root`."""
    writer = _Writer(root, random.Random(f"{seed}/{split}"), split)
    counts = {source: max(2, round(n * share)) for source, share in SHARES.items()}
    for source in (s for s in SHARES if s.startswith("mmeb/")):
        _write_mmeb(writer, source, counts[source])
    _write_llava_hound(writer, counts["llava_hound/caption_retrieval"] // 2, counts["llava_hound/qa"])
    _write_vidore(writer, counts["vidore/colpali_train_set"])
    _write_visrag(writer, counts["visrag"])
    pq.write_table(pa.Table.from_pylist(writer.truth, schema=TRUTH), root / "truth.parquet")


def _distinct_pairs(writer: _Writer, source: str, count: int, key: Callable[[PairSample], object]) -> list[PairSample]:
    """Draw pairs until `count` have different keys; a split that holds fewer gives what it has."""
    found: dict[object, PairSample] = {}
    for _ in range(count * 20):
        pair = draw_pair(writer.rng, writer.split, source)
        found.setdefault(key(pair), pair)
        if len(found) == count:
            break
    return list(found.values())


def _content_key(pair: PairSample) -> tuple[object, ...]:
    return pair.query.picture, pair.target.picture, pair.query.text if pair.query.picture else pair.target.summary


# -- MMEB ------------------------------------------------------------------------------------------------------------


def _write_mmeb(writer: _Writer, source: str, count: int) -> None:
    subset = source.removeprefix("mmeb/")
    folder = writer.root / "mmeb" / "images" / subset / "Train"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, pair in enumerate(_mmeb_pairs(writer, source, count)):
        query, query_path = _mmeb_side(writer, pair.query, f"images/{subset}/Train/{index:06d}_q.jpg")
        target, target_path = _mmeb_side(writer, pair.target, f"images/{subset}/Train/{index:06d}_t.jpg")
        writer.note(pair, query, target)
        row = {
            "qry": _mmeb_text(pair.query, True),
            "qry_image_path": query_path,
            "pos_text": _mmeb_text(pair.target, bool(target_path)),
            "pos_image_path": target_path,
        }
        negative = {"neg_text": pair.negative_text, "neg_image_path": ""} if subset in _NEGATIVES else {}
        rows.append(row | negative)
    table = writer.root / "mmeb" / subset / "original-00000-of-00001.parquet"
    table.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), table)


def _mmeb_pairs(writer: _Writer, source: str, count: int) -> list[PairSample]:
    if source == "mmeb/ImageNet_1K":  # classes repeat, as upstream
        return [draw_pair(writer.rng, writer.split, source) for _ in range(count)]
    return _distinct_pairs(writer, source, count, _content_key)


def _mmeb_side(writer: _Writer, side: SideSample, path: str) -> tuple[list[bytes], str]:
    if not isinstance(side.picture, Scene):
        return [], ""
    data = jpeg(render_image(side.picture, writer.rng))
    (writer.root / "mmeb" / path).write_bytes(data)
    return [data], path


def _mmeb_text(side: SideSample, line_break: bool) -> str:
    token = f"{IMAGE_TOKEN}\n" if side.picture is not None else ""
    return f"{token}{side.text}" + ("\n" if line_break else "")


# -- LLaVA-Hound -----------------------------------------------------------------------------------------------------


def _write_llava_hound(writer: _Writer, captions: int, questions: int) -> None:
    text_folder = writer.root / "llava_hound" / "video_instruction" / "train" / "sft"
    text_folder.mkdir(parents=True, exist_ok=True)
    caption_records: list[dict[str, Any]] = []
    question_records: list[dict[str, Any]] = []
    archived: list[tuple[str, dict[str, bytes]]] = []
    pairs = _distinct_pairs(writer, "llava_hound/caption_retrieval", captions, lambda p: p.query.picture)
    asked = _distinct_pairs(writer, "llava_hound/qa", questions, lambda p: (p.query.picture, p.content))
    asked += [_caption_as_question(writer.rng, p) for p in pairs[: round(questions * _CAPTIONS_AMONG_QUESTIONS)]]
    for index, pair in enumerate([*pairs, *asked]):
        clip_name = f"shapes_{index:05d}"
        frames = _frames(writer, pair.query.picture)
        if writer.rng.random() < _SHARE_IN_ARCHIVE:
            archived.append((clip_name, frames))
        else:
            _write_folder(writer.root / "llava_hound" / "train_300k" / clip_name, frames)
        chosen = choose_frames(list(frames), 8)
        shown = [frames[name] for name in chosen]
        writer.note(pair, shown, [])
        if index < len(pairs):
            writer.note(video_retrieval(pair), [], shown)
        record = _conversation(writer.rng, clip_name, pair.content, pair)
        (caption_records if index < len(pairs) else question_records).append(record)
    _write_lines(text_folder / "video_caption_300k.jsonl", caption_records)
    _write_lines(text_folder / "video_240k_caption_15k.jsonl", question_records)
    _write_archive(writer.root / "llava_hound" / "train_300k" / "chunk_0.tar.gz", archived)


def _caption_as_question(rng: random.Random, pair: PairSample) -> PairSample:
    """Upstream's question file ends with caption records, which the builder takes for questions."""
    clip = pair.query.picture
    assert isinstance(clip, Clip)
    prompt = rng.choice(VIDEO_PROMPTS)
    target = text_side(pair.content, pair.target.summary)
    return PairSample("llava_hound/qa", clip_side(VIDEO_QUESTION + prompt, clip), target, prompt)


def _frames(writer: _Writer, picture: object) -> dict[str, bytes]:
    """Eight frames or more; the names have leading zeros in most clips and none in some, as upstream."""
    assert isinstance(picture, Clip)
    width = 4 if writer.rng.random() < 0.7 else 1
    images = render_frames(picture, writer.rng, writer.rng.choice(_FRAME_COUNTS))
    return {f"c01_{i + 1:0{width}d}.jpeg": jpeg(image) for i, image in enumerate(images)}


def _conversation(rng: random.Random, name: str, content: str, pair: PairSample) -> dict[str, Any]:
    is_caption = pair.source == "llava_hound/caption_retrieval"
    human, answer = (pair.query.text, content) if is_caption else (content, pair.target.text)
    value = f"{human}\n{VIDEO_TOKEN}" if rng.random() < 0.2 else f"{VIDEO_TOKEN}\n{human}"
    turns = [{"from": "human", "value": value}, {"from": "gpt", "value": answer}]
    return {"id": name if is_caption else f"{name}_0", "video": name, "conversations": turns}


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def _write_archive(path: Path, clips: list[tuple[str, dict[str, bytes]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name, files in clips:
            for file, data in files.items():
                member = tarfile.TarInfo(f"{name}/{file}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


# -- document pages --------------------------------------------------------------------------------------------------


def _write_vidore(writer: _Writer, count: int) -> None:
    rows = []
    pairs = _distinct_pairs(writer, "vidore/colpali_train_set", count, _content_key)
    for index, pair in enumerate(pairs):
        data, name = _page_bytes(writer, pair.query), f"pages/page_{index:05d}.png"
        writer.note(pair, [data], [])
        constant = {"source": "pdf", "options": "None", "model": "None", "prompt": "", "answer_type": "None"}
        words = {"image_filename": name, "query": pair.content, "answer": pair.target.text, "page": str(index)}
        rows.append({"image": {"bytes": data, "path": Path(name).name}, **words, **constant})
    names = ("image_filename", "query", "answer", "source", "options", "page", "model", "prompt", "answer_type")
    schema = pa.schema([("image", _IMAGE_CELL), *((name, pa.string()) for name in names)])
    _write_table(writer.root / "vidore" / "colpali_train_set", rows, schema)


def _write_visrag(writer: _Writer, count: int) -> None:
    rows = []
    for index, pair in enumerate(_distinct_pairs(writer, "visrag", count, _content_key)):
        data = _page_bytes(writer, pair.target)
        writer.note(pair, [], [data])
        image = {"bytes": data, "path": f"page_{index:05d}.png"}
        rows.append({"query": pair.content, "image": image, "source": pair.source.removeprefix("visrag/")})
    schema = pa.schema([("query", pa.string()), ("image", _IMAGE_CELL), ("source", pa.string())])
    _write_table(writer.root / "visrag", rows, schema)


def _page_bytes(writer: _Writer, side: SideSample) -> bytes:
    assert side.picture is not None and not isinstance(side.picture, Clip)
    return png(render_image(side.picture, writer.rng))


def _write_table(folder: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    path = folder / "data" / "train-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
