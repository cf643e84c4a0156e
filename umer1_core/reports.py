"""Report folders over HTTP, for links in the Prefect UI: browsers follow none from a server's page to a file.

Guarantees: read-only; on this machine alone (loopback, and only requests that ask for it by that name, so that no
other site's page can reach it); only what lies in the `report/` folder of a data set that a run named, under an address
that cannot be guessed; no path and no link leads out of that folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from umer1_core.store import Store

ADDRESS_VARIABLE = "UMER1_REPORTS"  # the server's address, for the runs that `umer1 up` starts
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".svg": "image/svg+xml",
}
_NAMES = {"127.0.0.1", "localhost"}


def report_link(store: Store, page: str) -> str:
    """The address of a page of the data set's report, or nothing where no server of reports runs beside the run."""
    address = os.environ.get(ADDRESS_VARIABLE, "")
    if not address or not store.local:
        return ""
    return f"{address}/{_register(str(Path(store.path).absolute()))}/{page}"


@contextlib.contextmanager
def serve_reports(port: int = 0) -> Iterator[str]:
    """Serves the report folders that `report_link` named, while the block runs; the server's address.

    Links outlive a restart where the port is free again; where it is taken, another is used.
    """
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    except OSError:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="reports", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "umer1", ""

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *arguments: object) -> None:
        """Nobody reads these: an address in a log would be one that can be guessed."""

    def _answer(self, with_body: bool) -> None:
        asked = self.headers.get("Host", "").rpartition(":")[0]
        file = find_file(self.path) if asked in _NAMES else None
        if file is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        data = file.read_bytes()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _TYPES[file.suffix.lower()])
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        if with_body:
            self.wfile.write(data)


def find_file(path: str) -> Path | None:
    """The file behind a request's path, or None for everything that is not a page of a known report."""
    _, _, rest = urlsplit(path).path.partition("/")
    name, _, page = rest.partition("/")
    root = _registered().get(name)
    page = unquote(page)
    if root is None or "\0" in page:
        return None
    folder = (Path(root) / "report").resolve()
    file = (folder / (page or "index.html")).resolve()
    if not file.is_relative_to(folder) or file.suffix.lower() not in _TYPES or not file.is_file():
        return None
    return file


def _register(root: str) -> str:
    """The part of an address that stands for a data set; the same as long as the registry is kept."""
    registry = _registry()
    registry.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(registry, os.O_RDWR | os.O_CREAT, 0o600)
    with open(descriptor, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        known = json.loads(file.read() or "{}")
        for name, place in known.items():
            if place == root:
                return str(name)
        name = secrets.token_urlsafe(16)
        kept = {each: place for each, place in known.items() if Path(place).is_dir()}
        file.seek(0)
        file.truncate()
        file.write(json.dumps(kept | {name: root}))
    return name


def _registered() -> dict[str, str]:
    registry = _registry()
    if not registry.is_file():
        return {}
    with open(registry) as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        return dict(json.loads(file.read() or "{}"))


def _registry() -> Path:
    return Path.home() / ".cache" / "umer1" / "reports.json"
