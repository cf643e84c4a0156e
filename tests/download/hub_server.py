"""A stand-in of the hub: the routes that listing and fetching use, with ranges, and the ways in which it goes wrong."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

COMMIT = "c" * 40


@dataclass
class HubServer:
    """`files`: content by repository and path. The other fields spoil answers, each as its name says."""

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut_once: set[str] = field(default_factory=set)
    busy: Counter[str] = field(default_factory=Counter)
    retry_after: str = "1"
    lies: dict[str, int] = field(default_factory=dict)
    spoiled: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    tokens: set[str] = field(default_factory=set)
    url: str = ""

    async def tree(self, request: web.Request) -> web.Response:
        repo = _repo(request)
        if error := self._refusal(request, repo):
            return error
        entries = [self._entry(path, data) for path, data in sorted(self.files[repo].items())]
        page, size = int(request.query.get("cursor", 0)), 3
        headers = {}
        if page + size < len(entries):
            headers["Link"] = f'<{request.url.with_query(recursive="true", cursor=str(page + size))}>; rel="next"'
        return web.json_response(entries[page : page + size], headers=headers)

    async def info(self, request: web.Request) -> web.Response:
        repo = _repo(request)
        if error := self._refusal(request, repo):
            return error
        siblings = [{"rfilename": path} for path in self.files[repo]]
        return web.json_response({"id": repo, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []})

    async def content(self, request: web.Request) -> web.StreamResponse:
        repo, path = _repo(request), request.match_info["path"]
        if error := self._refusal(request, repo):
            return error
        data = self.files[repo][path]
        if path in self.spoiled:
            data = bytes(len(data))
        headers = {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if request.method == "HEAD":
            return web.Response(headers=headers | {"Content-Length": str(len(data))})
        self.asked.append(f"{path} {request.headers.get('Range', '')}".strip())
        if self.busy[path] > 0:
            self.busy[path] -= 1
            return web.Response(status=429, headers={"Retry-After": self.retry_after})
        first = int(request.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        part, status = data[first:], 206 if "Range" in request.headers else 200
        if status == 206:
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        response = web.StreamResponse(status=status, headers=headers | {"Content-Length": str(len(part))})
        await response.prepare(request)
        if path in self.cut_once:
            self.cut_once.discard(path)
            part = part[: len(part) // 2]
        await response.write(part)
        self.sent[path] += len(part)
        if len(part) < len(data) - first:
            assert request.transport
            await asyncio.sleep(0.05)
            request.transport.abort()
            return response
        await response.write_eof()
        return response

    def _entry(self, path: str, data: bytes) -> dict[str, object]:
        size = len(data) + self.lies.get(path, 0)
        oid = hashlib.sha1(data).hexdigest()
        entry: dict[str, object] = {"type": "file", "path": path, "size": size, "oid": oid}
        if path.endswith((".zip", ".gz", ".parquet")):
            entry["lfs"] = {"oid": _oid(data), "size": size, "pointerSize": 100}
        return entry

    def _refusal(self, request: web.Request, repo: str) -> web.Response | None:
        self.tokens.add(request.headers.get("Authorization", ""))
        if repo not in self.files:
            return web.json_response({}, status=404, headers={"X-Error-Code": "RepoNotFound"})
        if repo in self.gated and not request.headers.get("Authorization"):
            return web.json_response({}, status=403, headers={"X-Error-Code": "GatedRepo"})
        return None


@contextmanager
def running(server: HubServer) -> Iterator[HubServer]:
    loop = asyncio.new_event_loop()
    app = web.Application()
    repo = "/{owner}/{name}"
    app.router.add_get(f"/api/datasets{repo}/tree/{{revision}}", server.tree)
    app.router.add_get(f"/api/datasets{repo}/revision/{{revision}}", server.info)
    app.router.add_get(f"/api/datasets{repo}", server.info)
    app.router.add_get(f"/datasets{repo}/resolve/{{revision}}/{{path:.+}}", server.content)
    runner = web.AppRunner(app)
    loop.run_until_complete(runner.setup())
    site = web.TCPSite(runner, "127.0.0.1", 0)
    loop.run_until_complete(site.start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def _repo(request: web.Request) -> str:
    return f"{request.match_info['owner']}/{request.match_info['name']}"


def _oid(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
