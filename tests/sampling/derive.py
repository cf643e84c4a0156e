"""What every row of an upstream data set must become, derived a second time, by plain code that shares nothing with
umer1_core: straight from what the authors' scripts do (UME-R1 `src/data-download`, VLM2Vec-V2 `mmeb_dataset.py`).

`python -m tests.sampling.derive tests/data/upstream tests/golden/sources` writes the golden files.
"""

import hashlib
import json
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

# What the query and the target of a subset begin with; "" is no instruction.
QUESTION = "Represent the given image with the following question: "
PICTURE = "Represent the given image"
MMEB = {
    "ImageNet_1K": ("Represent the given image for classification", ""),
    "N24News": ("Represent the given news image with the following caption for domain classification", ""),
    "HatefulMemes": (
        "Represent the given image for binary classification to determine whether it constitutes hateful speech or not",
        "",
    ),
    "VOC2007": ("Identify the object shown in the image", ""),
    "SUN397": ("Identify the scene shown in the image", ""),
    **dict.fromkeys(["OK-VQA", "A-OKVQA", "DocVQA", "InfographicsVQA", "ChartQA", "Visual7W"], (QUESTION, "")),
    "VisDial": ("Represent the given dialogue about an image, which is used for image retrieval", PICTURE),
    "CIRR": ("Given an image, find a similar everyday image with the described changes", PICTURE),
    "VisualNews_t2i": ("Retrieve an image of this news caption", PICTURE),
    "VisualNews_i2t": ("Find a caption for the news in the given photo", ""),
    "MSCOCO_t2i": ("Find me an everyday image that matches the given caption", PICTURE),
    "MSCOCO_i2t": ("Find an image caption describing the given everyday image", ""),
    "NIGHTS": ("Find a day-to-day image that looks similar to the provided image", PICTURE),
    "WebQA": (
        "Find a Wikipedia image that answers this question",
        "Represent the given Wikipedia image with related text information",
    ),
    "MSCOCO": (
        "Select the portion of the image that isolates the object labeled as",
        "Represent the given cropped image of the object",
    ),
}
# What stands before the query, and what the target says, by the row's own source.
VISRAG = {
    "ArxivQA": (
        "This query is related to retrieving a relevant figure from an ArXiv research paper. The retrieved figure"
        " should contain scientific plots, mathematical visualizations, or experimental results that best address"
        " the query: ",
        "A figure from a research paper, including plots or experimental results.",
    ),
    "ChartQA": (
        "This query is related to retrieving a relevant chart that visually represents numerical or categorical "
        "data. The retrieved chart should contain bar graphs, line charts, or other visual elements necessary to "
        "analyze trends, compare values, or extract insights related to the query: ",
        "A statistical chart comparing values or analyzing trends.",
    ),
    "MP-DocVQA": (
        "This query is related to retrieving a relevant page from a multi-page document, such as reports, "
        "invoices, or research papers. The retrieved document should contain text, tables, or structured "
        "information necessary to answer the query: ",
        "A page from a multi-page document with text or tables.",
    ),
    "InfoVQA": (
        "This query is related to retrieving an infographic that visually presents statistical or factual "
        "information using charts, icons, and structured layouts. The retrieved image should contain the "
        "necessary visual elements to provide the best context for answering the query: ",
        "An infographic with structured data, charts, and annotations.",
    ),
    "PlotQA": (
        "This query relates to retrieving a relevant plot or chart that visually represents numerical data. The "
        "retrieved figure should contain the necessary information to analyze trends, compare values, or extract "
        "key insights related to the query: ",
        "A numerical data visualization, such as bar charts or line graphs.",
    ),
    "SlideVQA": (
        "This query is related to retrieving a relevant presentation slide that visually presents structured "
        "information. The retrieved slide should contain the necessary text, charts, or graphics to provide the "
        "best answer to the query: ",
        "A presentation slide with text, bullet points, and diagrams.",
    ),
}


def derive(sample: Path) -> dict[str, list[dict]]:
    """Source name to its rows, in stored order, of a folder with mmeb/, llava_hound/, vidore/ and visrag/."""
    found: dict[str, list[dict]] = {}
    for file in sorted((sample / "mmeb").glob("*/original-*.parquet")):
        subset = file.parent.name
        found[f"mmeb/{subset}"] = [_mmeb(sample / "mmeb", subset, file, n, r) for n, r in _table(file)]
    captions = list(_lines(sample, "video_caption_300k.jsonl"))
    questions = list(_lines(sample, "video_240k_caption_15k.jsonl"))
    for name, rows in (("caption_retrieval", captions), ("video_retrieval", captions), ("qa", questions)):
        found[f"llava_hound/{name}"] = [_hound(sample / "llava_hound", name, *row) for row in rows]
    pages = sample / "vidore/colpali_train_set"
    (file,) = (pages / "data").glob("train-*.parquet")
    found["vidore/colpali_train_set"] = [_vidore(pages, file, number, row) for number, row in _table(file)]
    (file,) = (sample / "visrag/data").glob("train-*.parquet")
    found["visrag"] = [_visrag(sample / "visrag", file, number, row) for number, row in _table(file)]
    return found


def _mmeb(root: Path, subset: str, file: Path, number: int, row: dict) -> dict:
    query = _side(_words(row["qry"]), _picture(root, subset, row["qry_image_path"]))
    target = _side(_words(row["pos_text"]), _picture(root, subset, row["pos_image_path"]))
    negatives = []
    texts, paths = row.get("neg_text") or [], row.get("neg_image_path") or []
    texts, paths = ([each] if isinstance(each, str) else each for each in (texts, paths))
    for place in range(max(len(texts), len(paths))):
        text, path = (each[place] if place < len(each) else "" for each in (texts, paths))
        if _words(text) or path:
            negatives.append(_side(_words(text), _picture(root, subset, path)))
    return _pair(file, number, f"mmeb/{subset}", MMEB[subset], query, target, negatives)


def _hound(root: Path, builder: str, file: Path, number: int, record: dict) -> dict:
    said, answered = (turn["value"].replace("<video>", "").strip() for turn in record["conversations"])
    clip = _clip(root, record["video"])
    if builder == "caption_retrieval":
        instructions, query, target = ("", ""), _side(said, clip), _side(answered)
    elif builder == "video_retrieval":
        instructions = (
            "Find a video that contains the following visual content: ",
            "Understand the content of the provided video.",
        )
        query, target = _side(instructions[0] + answered), _side(instructions[1], clip)
    else:
        instructions = ("Answer a question based on the content of a video. ", "")
        query, target = _side(instructions[0] + said, clip), _side(answered)
    return _pair(file, number, f"llava_hound/{builder}", instructions, query, target)


def _vidore(root: Path, file: Path, number: int, row: dict) -> dict:
    query = _side(QUESTION + row["query"], _cell(root, file, number, row))
    return _pair(file, number, "vidore/colpali_train_set", (QUESTION, ""), query, _side(row["answer"]))


def _visrag(root: Path, file: Path, number: int, row: dict) -> dict:
    asked, shown = VISRAG[row["source"]]
    target = _side(shown, _cell(root, file, number, row))
    return _pair(file, number, f"visrag/{row['source']}", (asked, shown), _side(asked + row["query"]), target)


def _pair(file: Path, number: int, source: str, instructions: tuple, query: dict, target: dict, negatives=()) -> dict:
    for instruction, side in zip(instructions, (query, target), strict=True):
        assert side["text"].startswith(instruction), (source, number, side["text"])
    return {
        "row": f"{file.name}#{number}", "source": source, "instruction": list(instructions),
        "query": query, "target": target, "negatives": list(negatives),
    }  # fmt: skip


def _side(text: str, media: dict | None = None) -> dict:
    return {"text": text, "media": [media] if media else []}


def _words(text: str) -> str:
    return text.replace("<|image_1|>", "").strip()


def _picture(root: Path, subset: str, path: str) -> dict | None:
    """A file, or a member of the subset's zip as it is downloaded."""
    if not path:
        return None
    if (root / path).exists():
        return {"at": path, "sha256": [_sha((root / path).read_bytes())]}
    inside = path.removeprefix("images/")
    with zipfile.ZipFile(root / f"images_zip/{subset}.zip") as archive:
        return {"at": f"images_zip/{subset}.zip!{inside}", "sha256": [_sha(archive.read(inside))]}


def _clip(root: Path, video: str) -> dict:
    """Eight frames by linspace in natural order, all where there are fewer; from the folder or the archive."""
    folder = root / "train_300k" / video
    if folder.is_dir():
        names = _eight([path.name for path in folder.iterdir()])
        return {
            "at": f"train_300k/{video}", "frames": names, "sha256": [_sha((folder / n).read_bytes()) for n in names],
        }  # fmt: skip
    for archive in sorted((root / "train_300k").glob("chunk_*")):
        with tarfile.open(archive) as tar:
            names = _eight([n for n in tar.getnames() if n.startswith(f"{video}/") and n.endswith(".jpeg")])
            if names:
                data = [tar.extractfile(name).read() for name in names]
                return {"at": f"train_300k/{archive.name}", "frames": names, "sha256": [_sha(d) for d in data]}
    raise FileNotFoundError(video)


def _eight(names: list[str]) -> list[str]:
    ordered = sorted(names, key=lambda name: int(re.findall(r"\d+", name)[-1]))
    if len(ordered) <= 8:
        return ordered
    return [ordered[place] for place in np.linspace(0, len(ordered) - 1, 8, dtype=int)]


def _cell(root: Path, file: Path, number: int, row: dict) -> dict:
    return {"at": f"{file.relative_to(root)}!image#{number}", "sha256": [_sha(row["image"]["bytes"])]}


def _table(file: Path) -> Iterator[tuple[int, dict]]:
    return enumerate(pq.read_table(file).to_pylist())


def _lines(sample: Path, name: str) -> Iterator[tuple[Path, int, dict]]:
    file = sample / "llava_hound/video_instruction/train/sft" / name
    for number, line in enumerate(file.read_text().splitlines()):
        yield file, number, json.loads(line)


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    for source, rows in derive(Path(sys.argv[1])).items():
        lines = (json.dumps(row, ensure_ascii=False, sort_keys=True) for row in rows)
        (Path(sys.argv[2]) / f"{source.replace('/', '-')}.jsonl").write_text("".join(line + "\n" for line in lines))
