"""Sources that need not be sampled again: finished in this version, or drawn by its parent from the same files.

Guarantees: a source is shared with the parent only whole, and only while the files its rows stand in have the size and
the time that they had; media are not looked at again. The rejections are shared last, and mark it as done.
"""

from __future__ import annotations

import re
from pathlib import Path

from umer1_core.media import local_path
from umer1_core.sampling.imported import imported_store, written_shards
from umer1_core.sampling.places import file_system
from umer1_core.sampling.rows import Layout
from umer1_core.shards import remove_shards
from umer1_core.store import ShardEntry, Store
from umer1_core.store import fingerprint as hashed


def source_slug(name: str) -> str:
    """The source's name as part of a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name)


def finished_source(store: Store, slug: str, fingerprint: str) -> list[ShardEntry] | None:
    """The shards of a source that is complete, its rejections last; None otherwise."""
    done = store.entry("rejections", slug, fingerprint)
    if done is None:
        return None
    shards = pair_shards(store, slug)
    imported = done.metrics.get("imported_shards", 0)
    whole = len(shards) == done.metrics["shards"]
    if imported:
        whole = whole and len(written_shards(imported_store(store), slug)) == imported
    return [*shards, done] if whole else None


def inherit_source(store: Store, slug: str, fingerprint: str, layout: Layout) -> list[ShardEntry] | None:
    """Share what the parent drew; None where it drew otherwise, did not finish, or from files that have changed."""
    parent = store.parent
    theirs = finished_source(parent, slug, fingerprint) if parent else None
    if parent is None or theirs is None or theirs[-1].metrics.get("files") != rows_state(layout):
        return None
    remove_shards(store, "rejections", [slug])
    remove_shards(store, "pairs", [entry.shard for entry in pair_shards(store, slug)])
    here, there = imported_store(store), imported_store(parent)
    remove_shards(here, "annotations", written_shards(here, slug))
    for shard in written_shards(there, slug):
        if entry := there.entry("annotations", shard):
            here.adopt(there, entry)
    return [store.adopt(parent, entry) for entry in theirs]


def rows_state(layout: Layout) -> str:
    """What changes when a file of rows does: a hash over their places, sizes and times."""
    return hashed([_file_state(uri) for uri in layout.files()])


def _file_state(uri: str) -> list[str]:
    path = local_path(uri)
    if path is not None:
        about = Path(path).stat()
        return [uri, str(about.st_size), str(about.st_mtime_ns)]
    system, inside = file_system(uri)
    info = system.info(inside)
    return [uri, *(str(info[key]) for key in ("size", "ETag", "etag", "LastModified", "mtime") if key in info)]


def pair_shards(store: Store, slug: str) -> list[ShardEntry]:
    """Told by name, so that a source does not read entries that others are writing."""
    folder = store.at("entries/pairs")
    if not store.fs.exists(folder):
        return []
    name = re.compile(rf"({re.escape(slug)}-\d{{5}})\.json")
    matches = [name.fullmatch(path.rpartition("/")[2]) for path in sorted(store.fs.find(folder))]
    entries = [store.entry("pairs", match.group(1)) for match in matches if match]
    return [entry for entry in entries if entry]
