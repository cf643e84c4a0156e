"""The hub: what a repository holds, and its files fetched to their place.

Guarantees: a file is there whole or not at all; what a broken connection or a killed process left of it is gone on
with, byte for byte; sizes are those of the hub's listing, and files in large-file storage have its checksum. The token
comes from HF_TOKEN and stands in no message. Waits as long as the hub asks when it is busy (Retry-After).

`hf_hub_download` is not used for files with a place of their own: it begins anew after a process was killed, and one
chunk of clips has nine gigabytes.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import huggingface_hub
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, disable_progress_bars

from umer1_core.errors import Fatal, SourceError, StorageError

Result = TypeVar("Result")
Wrote = Callable[[int], None]

PARTS = ".download"  # under a root: what is not whole yet
_BUSY = (429, 503)
_PATIENCE = 8  # times that a busy hub is asked again
_LONGEST_WAIT_S = 600.0
_READ = 1 << 24


class Stopped(Exception):
    """Another file failed, or a person interrupted: this one is gone on with next time."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository. `identity`: of its content. `sha256`: of files in large-file storage, otherwise empty."""

    repo: str
    revision: str
    path: str
    size: int
    identity: str
    sha256: str


class Hub:
    """The hub at HF_ENDPOINT, or the public one."""

    def __init__(self, endpoint: str = "") -> None:
        disable_progress_bars()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        self.endpoint = endpoint or os.environ.get("HF_ENDPOINT", "").rstrip("/") or huggingface_hub.constants.ENDPOINT
        self._token: str | bool = os.environ.get("HF_TOKEN", "") or False
        self._stop = threading.Event()

    def list_files(self, repo: str, revision: str) -> list[HubFile]:
        """Raises SourceError or Fatal, saying what to do."""
        api = HfApi(endpoint=self.endpoint, token=self._token)

        def read() -> list[HubFile]:
            tree = api.list_repo_tree(repo, recursive=True, repo_type="dataset", revision=revision)
            return [_hub_file(repo, revision, entry) for entry in tree if isinstance(entry, RepoFile)]

        return self._ask(repo, read)

    def fetch(self, file: HubFile, root: Path, wrote: Wrote) -> Path:
        """The file's place under `root`. `wrote` is told of bytes; of fewer than none where some must come again."""
        target = root / file.path
        part = root / PARTS / f"{file.identity}.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._ask(file.repo, lambda: self._continue(file, part, wrote))
            _check(file, part)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(part, target)
        except OSError as error:
            if isinstance(error, HfHubHTTPError) or error.errno is None:
                raise
            raise StorageError(
                f"{target} cannot be written: {error.strerror}.", "Free some space there; what was fetched is kept."
            ) from error
        return target

    def snapshot(self, repo: str, revision: str) -> Path:
        """The whole repository in the hub's own cache."""
        return Path(
            self._ask(
                repo,
                lambda: huggingface_hub.snapshot_download(
                    repo, repo_type="dataset", revision=revision, endpoint=self.endpoint, token=self._token
                ),
            )
        )

    def stop(self) -> None:
        """Every fetch in progress ends at its next bytes."""
        self._stop.set()

    def _continue(self, file: HubFile, part: Path, wrote: Wrote) -> None:
        """Fetch what is missing of a part. A part that is too long is none."""
        have = part.stat().st_size if part.exists() else 0
        if have > file.size:
            part.unlink()
            have = 0
        wrote(have)
        with _Part(part, have, wrote, self._stop) as sink:
            try:
                if have < file.size or not file.size:
                    url = hf_hub_url(
                        file.repo, file.path, repo_type="dataset", revision=file.revision, endpoint=self.endpoint
                    )
                    headers = build_hf_headers(token=self._token)
                    # Typed for buffered files; it writes, seeks, tells and truncates.
                    http_get(
                        url, cast(Any, sink), resume_size=have, headers=headers, expected_size=file.size,
                        displayed_filename=file.path,
                    )  # fmt: skip
            except BaseException as error:
                got = sink.tell()
                wrote(-got)
                if isinstance(error, OSError) and error.errno is None and not isinstance(error, HfHubHTTPError):
                    raise _wrong_size(file, got) from error  # the library's word for a size that is not the expected
                raise
            finally:
                os.fsync(sink.fileno())

    def _ask(self, repo: str, call: Callable[[], Result]) -> Result:
        page = f"{self.endpoint}/datasets/{repo}"
        for attempt in range(_PATIENCE + 1):
            try:
                return call()
            except GatedRepoError as error:
                raise SourceError(
                    f"{repo} asks for its terms to be accepted.", f"Accept them at {page}, then set HF_TOKEN."
                ) from error
            except RepositoryNotFoundError as error:
                raise SourceError(
                    f"There is no data set {repo} on {self.endpoint}, or it is private.",
                    f"See {page}; a private one needs HF_TOKEN.",
                ) from error
            except RevisionNotFoundError as error:
                raise SourceError(
                    f"{repo} has no such revision.", f"See {page}/commits; correct `revision`."
                ) from error
            except OfflineModeIsEnabled as error:
                raise Fatal("HF_HUB_OFFLINE is set: nothing can be fetched.", "Unset it.") from error
            except HfHubHTTPError as error:
                code = error.response.status_code if error.response is not None else 0
                if code not in _BUSY or attempt == _PATIENCE:
                    raise _refused(repo, code) from error
                self._wait(error)
            except (Stopped, StorageError, SourceError):
                raise
            except Exception as error:
                raise _unreachable(self.endpoint, repo, error) from error
        raise AssertionError("unreachable")

    def _wait(self, error: HfHubHTTPError) -> None:
        asked = error.response.headers.get("Retry-After", "") if error.response is not None else ""
        seconds = min(float(asked) if asked.isdigit() else 5.0, _LONGEST_WAIT_S)
        deadline = time.monotonic() + seconds
        if self._stop.wait(max(0.0, deadline - time.monotonic())):
            raise Stopped


class _Part(io.FileIO):
    """A file that is written on from `start`, and tells of its bytes."""

    def __init__(self, path: Path, start: int, wrote: Wrote, stop: threading.Event) -> None:
        super().__init__(path, "r+b" if path.exists() else "w+b")
        self.seek(start)
        self._wrote, self._stop = wrote, stop

    def write(self, data: Any) -> int:
        if self._stop.is_set():
            raise Stopped
        view = memoryview(data)
        done = 0
        while done < len(view):
            done += super().write(view[done:]) or 0
        self._wrote(done)
        return done

    def truncate(self, size: int | None = None) -> int:
        """The library begins anew where a server knows no ranges."""
        end = self.seek(0, os.SEEK_END) if size is None else size
        place = self.tell() if size is None else size
        self._wrote(place - end)
        return super().truncate(size)


def _hub_file(repo: str, revision: str, entry: RepoFile) -> HubFile:
    sha256 = entry.lfs.sha256 if entry.lfs else ""
    return HubFile(repo, revision, entry.path, entry.size, sha256 or entry.blob_id, sha256)


def _check(file: HubFile, part: Path) -> None:
    """Raises SourceError, and removes the part, where it is not what the hub listed."""
    size = part.stat().st_size
    if size == file.size and (not file.sha256 or _sha256(part) == file.sha256):
        return
    part.unlink()
    if size != file.size:
        raise _wrong_size(file, size)
    raise SourceError(
        f"{file.repo}: {file.path} has not the hub's checksum.", "Run the same command again: it is fetched anew."
    )


def _wrong_size(file: HubFile, size: int) -> SourceError:
    return SourceError(
        f"{file.repo}: {file.path} ended at {size:,} bytes, the hub lists {file.size:,}.",
        "Run the same command again: it goes on where it stopped.",
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refused(repo: str, code: int) -> Fatal | SourceError:
    if code in _BUSY:
        return Fatal(f"The hub is too busy ({code}).", "Run the same command later: it goes on where it stopped.")
    if code in (401, 403):
        return SourceError(f"The hub refuses {repo} ({code}).", "Set HF_TOKEN to a token that may read it.")
    return SourceError(
        f"The hub answers {code} for {repo}.", "Run the same command again: it goes on where it stopped."
    )


def _unreachable(endpoint: str, repo: str, error: Exception) -> Exception:
    """What the library raises when no answer comes has many types; a file that is cut short says so itself."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    return Fatal(
        f"{repo} cannot be fetched from {endpoint}: {type(error).__name__}.",
        "Is there a network? HF_ENDPOINT names another hub. Run the same command again: it goes on where it stopped.",
    )
