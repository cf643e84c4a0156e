"""`umer1 download`: what a recipe needs of the hub, and no more, into the folders where its sources look for it.

Guarantees: files that are there with the hub's size are not fetched; before the first byte there is room for all;
one failed file stops the others, which are gone on with by the next call; at the end rows are counted and held against
the published counts.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from schemas.recipe import Recipe
from umer1_core.download.counts import RowCount, count_rows
from umer1_core.download.hub import Hub, HubFile
from umer1_core.download.wants import MMEB, Want, archives_of, list_wants
from umer1_core.errors import SourceError, StorageError

Show = Callable[[int, int], None]
_FILES_AT_ONCE = 4
_SPARE_BYTES = 1 << 30
_PICTURES = r"""
SELECT DISTINCT regexp_extract(path, '^(?:images/)?([^/]+)/', 1) AS folder
FROM (SELECT unnest([qry_image_path, pos_image_path]) AS path FROM read_parquet($files)) WHERE path <> ''
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """A unit's files. `there`: those that lie in their place with the hub's size."""

    want: Want
    files: tuple[HubFile, ...]
    there: frozenset[str]

    @property
    def missing(self) -> list[HubFile]:
        return [file for file in self.files if file.path not in self.there]

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What was planned, what was fetched, and the rows found; of a dry run nothing was fetched."""

    plans: tuple[Plan, ...]
    fetched_bytes: int
    counts: tuple[RowCount, ...]

    @property
    def disagreeing(self) -> list[RowCount]:
        return [count for count in self.counts if not count.agrees]


def plan_download(recipe: Recipe, hub: Hub, only: Sequence[str] = (), to: str = "") -> list[Plan]:
    """What is needed and what is there. Raises RecipeError, SourceError or Fatal."""
    listings: dict[tuple[str, str], list[HubFile]] = {}
    plans = []
    for want in list_wants(recipe, only, to):
        key = (want.repo, want.revision)
        if key not in listings:
            listings[key] = hub.list_files(*key)
        plans.append(_plan(want, listings[key]))
    return plans


def download(recipe: Recipe, hub: Hub, show: Show, only: Sequence[str] = (), to: str = "") -> Downloaded:
    """Fetch everything. `show`: bytes that are there, of how many."""
    plans = plan_download(recipe, hub, only, to)
    _require_space(plans)
    texts = [replace_files(plan, lambda file: not _is_media(file)) for plan in plans]
    total = sum({_place(plan.want, file): file.size for plan in plans for file in plan.files}.values())
    fetched = _Fetched(hub, show, total)
    fetched.fetch(texts)
    plans = [_with_other_pictures(plan, hub) for plan in plans]
    fetched.fetch(plans)
    counts = (count_rows(plan.want.unit, _row_files(plan)) for plan in plans if plan.want.root)
    return Downloaded(tuple(plans), fetched.bytes, tuple(count for count in counts if count))


def replace_files(plan: Plan, keep: Callable[[HubFile], bool]) -> Plan:
    return replace(plan, files=tuple(file for file in plan.files if keep(file)))


class _Fetched:
    """Fetches each file once, some at a time, and tells how far it is."""

    def __init__(self, hub: Hub, show: Show, total: int) -> None:
        self._hub, self._show, self._total = hub, show, total
        self._done: set[Path] = set()
        self._there = 0
        self.bytes = 0

    def fetch(self, plans: Iterable[Plan]) -> None:
        """Raises the first failure; the other files then stop at their next bytes."""
        jobs: list[Callable[[], object]] = []
        for plan in plans:
            jobs += self._jobs(plan)
        with ThreadPoolExecutor(_FILES_AT_ONCE, thread_name_prefix="download") as pool:
            futures: list[Future[object]] = [pool.submit(job) for job in jobs]
            try:
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                failed = [future for future in done if not future.cancelled() and future.exception()]
            except BaseException:
                self._cancel(futures)
                raise
            if failed:
                self._cancel(futures)
                failed[0].result()

    def _cancel(self, futures: Iterable[Future[object]]) -> None:
        self._hub.stop()
        for future in futures:
            future.cancel()

    def _jobs(self, plan: Plan) -> Iterable[Callable[[], object]]:
        want = plan.want
        if not want.root:
            self._tell(plan.bytes)
            return [lambda: self._hub.snapshot(want.repo, want.revision)]
        jobs: list[Callable[[], object]] = []
        for file in plan.files:
            place = _place(want, file)
            if place in self._done:
                continue
            self._done.add(place)
            if file.path in plan.there:
                self._tell(file.size)
            else:
                self.bytes += file.size
                jobs.append(lambda file=file: self._hub.fetch(file, Path(want.root), self._tell))  # type: ignore[misc]
        return jobs

    def _tell(self, count: int) -> None:
        self._there += count
        self._show(self._there, max(self._total, self._there))


def _plan(want: Want, listing: Iterable[HubFile]) -> Plan:
    listed = list(listing)
    files = [file for file in listed if want.takes(file.path)]
    unpacked = bool(want.root) and _is_unpacked(want)
    for pattern in want.least:
        found = any(replace(want, patterns=(pattern,)).takes(file.path) for file in files)
        if not found:
            raise SourceError(
                f"{want.repo} holds no file for {want.unit} (looked for {pattern}).",
                "Correct the subset, split or file name in the recipe; see the data set's page for what there is.",
            )
    needed = [file for file in files if not (unpacked and _is_archive(file))]
    return Plan(want, tuple(needed), _there(want, needed))


def _there(want: Want, files: Iterable[HubFile]) -> frozenset[str]:
    return frozenset(
        file.path
        for file in files
        if want.root and _place(want, file).is_file() and _place(want, file).stat().st_size == file.size
    )


def _is_unpacked(want: Want) -> bool:
    """Whether somebody unpacked the archives into the folders that they stand for, and removed them."""
    root = Path(want.root)
    filled = (path.is_dir() and any(path.iterdir()) for pattern in want.unpacked for path in root.glob(pattern))
    return any(filled) and not any(root.glob("train_300k/chunk_*.tar*"))


def _with_other_pictures(plan: Plan, hub: Hub) -> Plan:
    """A subset of MMEB-train may show another's pictures: the archives that its rows name are needed too."""
    want = plan.want
    rows = [str(file) for file in _row_files(plan)]
    if want.repo != MMEB or not rows:
        return plan
    with duckdb.connect() as connection:
        found = connection.execute(_PICTURES, {"files": rows}).fetchall()
    folders = {str(folder) for (folder,) in found if folder}
    others = folders - {want.unit.partition("/")[2]}
    patterns = tuple(
        archives_of(folder) for folder in sorted(others) if not (Path(want.root) / "images" / folder).is_dir()
    )
    if not patterns:
        return plan
    wider = replace(want, patterns=(*want.patterns, *patterns))
    return _plan(wider, hub.list_files(want.repo, want.revision))


def _require_space(plans: Sequence[Plan]) -> None:
    """Raises StorageError where a disk has no room for what is missing on it."""
    needed: dict[int, dict[Path, int]] = defaultdict(dict)
    places: dict[int, Path] = {}
    for plan in plans:
        folder = _existing(Path(plan.want.root) if plan.want.root else Path.home())
        device = os.stat(folder).st_dev
        places.setdefault(device, folder)
        for file in plan.missing:
            needed[device][_place(plan.want, file)] = file.size
    for device, sizes in needed.items():
        wanted, free = sum(sizes.values()), shutil.disk_usage(places[device]).free
        if wanted + _SPARE_BYTES > free:
            raise StorageError(
                f"{places[device]} has {free / 1e9:,.1f} GB free; {wanted / 1e9:,.1f} GB are to be fetched.",
                "Free some space, choose another disk by `root` or --to, or fetch less with --only.",
            )


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder


def _place(want: Want, file: HubFile) -> Path:
    return Path(want.root or want.repo) / file.path


def _row_files(plan: Plan) -> list[Path]:
    places = (_place(plan.want, file) for file in plan.files if not _is_media(file))
    return [place for place in places if place.is_file()]


def _is_media(file: HubFile) -> bool:
    return not file.path.endswith((".parquet", ".json", ".jsonl"))


def _is_archive(file: HubFile) -> bool:
    return file.path.endswith((".zip", ".tar", ".tar.gz"))
