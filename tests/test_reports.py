"""Reports are served read-only, to this machine, and nothing but reports."""

from __future__ import annotations

import http.client
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from umer1_core.reports import ADDRESS_VARIABLE, report_link, serve_reports
from umer1_core.store import Store


@pytest.fixture
def data_set(tmp_path: Path) -> Store:
    root = tmp_path / "runs/v1"
    (root / "report/validation").mkdir(parents=True)
    (root / "report/validation/index.html").write_text("<h1>docs</h1>")
    (root / "report/index.html").write_text("report")
    (root / "report/secret.parquet").write_text("-")
    (root / "manifest.json").write_text("{}")
    (root / "report/out.html").symlink_to(root / "manifest.json")
    return Store(str(root))


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("HOME", str(tmp_path))
    with serve_reports() as served:
        monkeypatch.setenv(ADDRESS_VARIABLE, served)
        yield served


def ask(url: str, method: str = "GET", host: str = "", path: str = "") -> tuple[int, str]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    connection.request(method, path or parts.path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_a_link_leads_to_the_page_and_stays_the_same(data_set: Store, address: str) -> None:
    link = report_link(data_set, "validation/index.html")

    assert ask(link) == (200, "<h1>docs</h1>")
    assert link == report_link(data_set, "validation/index.html")
    assert ask(link.removesuffix("validation/index.html")) == (200, "report")


def test_a_port_that_is_taken_is_left_to_its_owner(data_set: Store, address: str) -> None:
    with serve_reports(urlsplit(address).port or 0) as other:
        assert other != address and ask(report_link(data_set, "index.html").replace(address, other))[0] == 200


def test_a_run_beside_which_no_server_stands_has_no_link(data_set: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)
    assert report_link(data_set, "index.html") == ""


@pytest.mark.parametrize(
    "page", ["../manifest.json", "%2e%2e/manifest.json", "..%2fmanifest.json", "out.html", "secret.parquet", "no.html",
             "validation/../../manifest.json", "/etc/passwd", "%00.html"]
)  # fmt: skip
def test_nothing_but_pages_inside_the_report_is_served(data_set: Store, address: str, page: str) -> None:
    base = urlsplit(report_link(data_set, "index.html")).path.removesuffix("index.html")
    assert ask(address, path=base + page)[0] == 404


def test_unknown_names_other_hosts_and_writing_are_refused(data_set: Store, address: str) -> None:
    link = report_link(data_set, "index.html")

    assert ask(f"{address}/abc/index.html")[0] == 404 and ask(address, path="/")[0] == 404
    assert ask(link, host="evil.example:80")[0] == 404, "a page of another site reached it by a name of its own"
    assert ask(link, method="POST")[0] == 501 and ask(link, method="DELETE")[0] == 501
    assert ask(link, method="HEAD") == (200, "")


def test_addresses_cannot_be_guessed_nor_read_by_others(data_set: Store, address: str, tmp_path: Path) -> None:
    name = urlsplit(report_link(data_set, "index.html")).path.split("/")[1]

    assert len(name) >= 20
    assert os.stat(tmp_path / ".cache/umer1/reports.json").st_mode & 0o077 == 0
