"""An export reaches the hub: tried on a stand-in that speaks the routes an upload of small files uses."""

import base64
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import orjson
import pytest

TOKEN = "hf_stand-in"


class Hub(ThreadingHTTPServer):
    """`files`: what was committed, by path; `created`: what was asked when the repository was made."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.created: dict = {}


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self._answer({"id": "someone/set", "sha": "c" * 40, "siblings": [], "private": True, "tags": []})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({"error": "who are you?"}, 401)
        elif self.path.endswith("/repos/create"):
            self.server.created = orjson.loads(body)
            self._answer({"url": f"http://{self.headers['Host']}/datasets/someone/set", "name": "someone/set"})
        elif self.path.endswith("/validate-yaml"):
            self._answer({"warnings": [], "errors": []})
        elif "/preupload/" in self.path:
            names = [each["path"] for each in orjson.loads(body)["files"]]
            self._answer({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                record = orjson.loads(line)
                if record["key"] == "file":
                    self.server.files[record["value"]["path"]] = base64.b64decode(record["value"]["content"])
            self._answer(
                {
                    "commitUrl": f"http://{self.headers['Host']}/datasets/someone/set/commit/{'d' * 40}",
                    "commitOid": "d" * 40,
                    "success": True,
                }
            )
        else:
            self._answer({"error": self.path}, 404)

    def _answer(self, record: dict, status: int = 200) -> None:
        data = orjson.dumps(record)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def pushed(hub: Hub, folder: Path, name: str = "someone/set", token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the library reads the environment when it is imported."""
    program = "import sys; from pathlib import Path; from umer1_core.publishing.export.hub import push;"
    program += " print(push(Path(sys.argv[1]), sys.argv[2]))"
    place = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_TOKEN": token}
    command = [sys.executable, "-c", program, str(folder), name]
    return subprocess.run(command, env=os.environ | place, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cold_start").mkdir()
    (tmp_path / "cold_start/train-00000-of-00001.parquet").write_bytes(b"rows")
    (tmp_path / "README.md").write_text("card")
    (tmp_path / "export.json").write_text("{}")
    return tmp_path


def test_a_folder_is_uploaded_as_a_private_data_set_without_its_list(hub, folder):
    done = pushed(hub, folder)
    assert done.stdout.strip().endswith("/datasets/someone/set"), done.stderr
    assert hub.files == {"cold_start/train-00000-of-00001.parquet": b"rows", "README.md": b"card"}
    assert hub.created["type"] == "dataset" and (hub.created.get("visibility") or hub.created["private"])


def test_a_refusal_is_a_sentence_without_the_token(hub, folder):
    done = pushed(hub, folder, token="hf_wrong-secret")
    assert "StorageError: The hub did not take someone/set" in done.stderr and "HF_TOKEN" in done.stderr
    assert "hf_wrong-secret" not in done.stderr + done.stdout and not hub.files


def test_a_name_that_can_be_none_is_refused(hub, folder):
    assert "StorageError: The hub did not take a/b/c" in pushed(hub, folder, "a/b/c").stderr
