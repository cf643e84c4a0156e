"""Media are found as files or inside archives, here and on other file systems, with equal results."""

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from schemas.sources import LlavaHoundSource, MmebSource, OwnSource, ReleasedSource, VidoreSource, VisragSource
from tests.sampling.files import jpeg, only, write_cells
from umer1_core.errors import BadInput
from umer1_core.media import read_frames, read_image
from umer1_core.pairs import Pair, pair_from_record
from umer1_core.sampling import list_sources, sample_source
from umer1_core.sampling.finding import Finder
from umer1_core.sampling.places import Place, place
from umer1_core.store import Store

PICTURE = "images/OK-VQA/Train/7.jpg"


def pack(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return
    with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def remote(tmp_path: Path) -> Callable[[Path], str]:
    """Copies a folder to another file system."""
    memory = fsspec.filesystem("memory")

    def copy(folder: Path) -> str:
        for file in folder.rglob("*"):
            if file.is_file():
                memory.pipe_file(f"/far{folder}/{file.relative_to(folder)}", file.read_bytes())
        return f"memory://far{folder}"

    yield copy
    if memory.exists("/far"):
        memory.rm("/far", recursive=True)


@pytest.mark.parametrize(
    ("archive", "member"),
    [
        ("images_zip/OK-VQA.zip", "OK-VQA/Train/7.jpg"),
        ("images_zip/OK-VQA.zip", "images/OK-VQA/Train/7.jpg"),
        ("image_zips/OK-VQA.zip", "Train/7.jpg"),
        ("images/OK-VQA.tar", "./OK-VQA/Train/7.jpg"),
        ("OK-VQA.zip", "OK-VQA/Train/7.jpg"),
        ("images.zip", "OK-VQA/Train/7.jpg"),
        ("images/OK-VQA.tar", "OK-VQA/Train/7.jpg"),
        ("images/OK-VQA.tar.gz", "Train/7.jpg"),
        ("OK-VQA.tgz", "images/OK-VQA/Train/7.jpg"),
    ],
)
def test_a_picture_is_found_in_the_archive_of_its_folder(tmp_path, remote, archive, member):
    pack(tmp_path / "r" / archive, {member: jpeg(70), "OK-VQA/Train/17.jpg": jpeg(1)})
    for root in (place(str(tmp_path / "r")), place(remote(tmp_path / "r"))):
        media = Finder(root).image(PICTURE)
        assert read_image(media) == jpeg(70) and media.uri.endswith(archive)
        sequential = archive.endswith(("gz",))
        assert bool(Finder(root).container(PICTURE)[0]) == sequential and (media.offset < 0) == sequential


def test_a_deflated_member_is_read_too(tmp_path):
    pack(tmp_path / "OK-VQA.zip", {"OK-VQA/Train/7.jpg": jpeg(70)}, zipfile.ZIP_DEFLATED)
    assert read_image(Finder(place(str(tmp_path))).image(PICTURE)) == jpeg(70)


def test_a_file_that_lies_unpacked_is_taken_first(tmp_path):
    pack(tmp_path / "OK-VQA.zip", {"Train/7.jpg": jpeg(1)})
    (tmp_path / PICTURE).parent.mkdir(parents=True)
    (tmp_path / PICTURE).write_bytes(jpeg(2))
    assert Finder(place(str(tmp_path))).image(PICTURE).member == ""


def test_an_archive_of_another_folder_is_not_taken(tmp_path):
    pack(tmp_path / "A-OKVQA.zip", {"images/OK-VQA/Train/7.jpg": jpeg(1), "Train/7.jpg": jpeg(1)})
    assert Finder(place(str(tmp_path))).image(PICTURE).uri == str(tmp_path / PICTURE)


def test_a_clip_may_lie_in_an_archive(tmp_path, remote):
    frames = {f"clips/v1/f{n}.jpg": jpeg(n) for n in (10, 9, 2)} | {"clips/v1/._f2.jpg": b"x", "clips/v2/f1.jpg": b""}
    pack(tmp_path / "r/clips.tar.gz", frames)
    for root in (place(str(tmp_path / "r")), place(remote(tmp_path / "r"))):
        media = Finder(root).clip("clips/v1")
        assert media.frames == tuple(f"clips/v1/f{n}.jpg" for n in (2, 9, 10))
        assert read_frames(media) == [jpeg(2), jpeg(9), jpeg(10)]
        named = Finder(root).clip_of(["clips/v1/f9.jpg", "clips/v1/f2.jpg"])
        assert read_frames(named) == [jpeg(9), jpeg(2)]


def test_frames_of_several_folders_make_one_clip(tmp_path, remote):
    for number in range(3):
        (tmp_path / f"r/s{number}").mkdir(parents=True)
        (tmp_path / f"r/s{number}/f.jpg").write_bytes(jpeg(number))
    for root in (place(str(tmp_path / "r")), place(remote(tmp_path / "r"))):
        media = Finder(root).clip_of(["s2/f.jpg", "s0/f.jpg"])
        assert media.frames == ("s2/f.jpg", "s0/f.jpg") and read_frames(media) == [jpeg(2), jpeg(0)]


def test_no_spelling_of_a_path_leaves_the_root(tmp_path):
    pack(tmp_path / "r/images.zip", {"x.jpg": jpeg(1)})
    finder = Finder(place(str(tmp_path / "r")), spellings=lambda path: (path, path.removeprefix("MMEB-train/")))
    for path in ("../images/x.jpg", "/images/x.jpg", "MMEB-train/../images/x.jpg"):
        for find in (finder.image, finder.clip, lambda path: finder.clip_of([path])):
            with pytest.raises(BadInput) as error:
                find(path)
            assert error.value.reason == "path_outside_root"


# -- every layout, on another file system ----------------------------------------------------------------------------


def pairs_of(root: Path, *sources: object) -> list[Pair]:
    store = Store(str(root))
    for spec in list_sources(sources):
        assert not sample_source(spec, 0, store)[-1].metrics["rejected"]
    return sorted((pair_from_record(row) for row in store.iterate("pairs")), key=lambda pair: pair.pair_id)


def same(here: list[Pair], far: list[Pair]) -> bool:
    """Equal rows with equal media, and the far ones lie there."""
    assert here and all(m.uri.startswith("memory://") for p in far for m in p.query.media + p.target.media)
    return [(p.pair_id, p.query.key, p.target.key) for p in here] == [
        (p.pair_id, p.query.key, p.target.key) for p in far
    ]


def test_mmeb_is_read_from_another_file_system(mmeb, tmp_path, remote):
    source = mmeb([{"qry": f"q{n}", "qry_image_path": f"images/{n}.jpg", "pos_text": "t"} for n in range(4)])
    far = MmebSource(root=remote(Path(source.root)))
    assert same(pairs_of(tmp_path / "1", source), pairs_of(tmp_path / "2", far))


def test_mmeb_is_read_from_the_zips_that_are_downloaded(mmeb, tmp_path, remote):
    rows = [{"qry": f"q{n}", "qry_image_path": f"images/OK-VQA/Train/{n}.jpg", "pos_text": "t"} for n in range(70)]
    root = Path(mmeb(rows).root)
    members = {f"OK-VQA/Train/{n}.jpg": jpeg(n) for n in range(70)}
    pack(root / "images_zip/OK-VQA.zip", members)
    here = pairs_of(tmp_path / "1", MmebSource(root=str(root)))
    assert all(m.offset > 0 and m.member.startswith("OK-VQA/") for pair in here for m in pair.query.media)
    assert same(here, pairs_of(tmp_path / "2", MmebSource(root=remote(root))))


def test_llava_hound_is_read_from_another_file_system(hound, tmp_path, remote):
    frames = Path(hound.root) / "train_300k"
    (frames / "empty").rmdir()
    pack(frames / "chunk_1.tar", {f"plain/c_{n}.jpeg": jpeg(n) for n in range(9)})
    texts = Path(hound.root) / "video_instruction/train/sft"
    line = (texts / "video_caption_300k.jsonl").read_text().splitlines()[0].replace('"folder"', '"plain"')
    for file in texts.iterdir():
        file.write_text(file.read_text() + line + "\n")
    here = pairs_of(tmp_path / "1", hound)
    assert {Path(m.uri).name for p in here for m in p.query.media} == {"folder", "chunk_0.tar.gz", "chunk_1.tar"}
    assert same(here, pairs_of(tmp_path / "2", LlavaHoundSource(root=remote(Path(hound.root)))))


def test_cells_are_read_from_another_file_system(tmp_path, remote):
    rows = [{"image": {"bytes": jpeg(n), "path": f"{n}.jpg"}, "query": f"q{n}", "answer": "a"} for n in range(5)]
    write_cells(tmp_path / "v", rows)
    write_cells(tmp_path / "g", [{k: r[k] for k in ("image", "query")} | {"source": "PlotQA"} for r in rows])
    here = pairs_of(tmp_path / "1", VidoreSource(root=str(tmp_path / "v")), VisragSource(root=str(tmp_path / "g")))
    far = VidoreSource(root=remote(tmp_path / "v")), VisragSource(root=remote(tmp_path / "g"))
    assert same(here, pairs_of(tmp_path / "2", *far))


def test_own_and_released_data_are_read_from_another_file_system(tmp_path, remote):
    root = tmp_path / "r"
    pack(root / "pics.zip", {"a.jpg": jpeg(1)})
    (root / "clip").mkdir()
    (root / "clip/f1.jpg").write_bytes(jpeg(2))
    (root / "own.jsonl").write_text('{"query": {"image": "pics/a.jpg"}, "target": {"video": "clip"}}\n')
    (root / "rl.json").write_text('[{"dataset": "CIRR", "qry_text": "q", "pos_image": "MMEB-train/pics/a.jpg"}]')

    def sources(uri: str) -> list:
        return [
            OwnSource(name="mine", files=[f"{uri}/own.jsonl"]), ReleasedSource(files=[f"{uri}/rl.json"], root=uri),
        ]  # fmt: skip

    assert same(pairs_of(tmp_path / "1", *sources(str(root))), pairs_of(tmp_path / "2", *sources(remote(root))))


def test_a_far_path_that_leaves_its_root_is_refused(mmeb, tmp_path, remote):
    source = mmeb([{"qry": "q", "qry_image_path": "a/../../x.jpg", "pos_text": "t"}])
    store = Store(str(tmp_path / "o"))
    metrics = sample_source(only(MmebSource(root=remote(Path(source.root)))), 0, store)[-1].metrics
    assert metrics["rejected"] == {"path_outside_root": 1}


def test_places_are_equal_by_what_they_mean(tmp_path):
    assert place(f"file://{tmp_path}") == place(str(tmp_path)) == Place(str(tmp_path.resolve()))
