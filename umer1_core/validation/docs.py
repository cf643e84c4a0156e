"""The Data Docs as they are kept beside the data: Great Expectations' result pages in a site that needs no network.

Great Expectations' own pages load style and script from six hosts. Here each result keeps its content and gets a
local style and a policy that forbids scripts; `index.html` says first what failed, then every expectation by group.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from itertools import groupby
from pathlib import Path

from umer1_core.store import Store
from umer1_core.validation.expectations import Check, Failure, Findings

_SCRIPTS = re.compile(r"<script\b.*?</script\s*>", re.DOTALL | re.IGNORECASE)
_CONTENT = re.compile(r'<div class="col-md-10.*?(?=<footer)', re.DOTALL)
_DETAILS = re.compile(r'<div id="section-1-content-block-3".*?(?=<div id="section-2")', re.DOTALL)
_SUITE_LINK = re.compile(r'<a href="[^"]*expectations/[^"]*"\s*>(.*?)</a>', re.DOTALL)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60646c; --line: #e0e1e6; --page: #fcfcfd; --card: #fff;
  --good: #18794e; --bad: #c62a2f; --good-bg: #e9f6ee; --bad-bg: #ffefef }
@media (prefers-color-scheme: dark) { :root { --ink: #edeef0; --soft: #b0b4ba; --line: #33363b; --page: #111113;
  --card: #19191b; --good: #4cc38a; --bad: #ff9592; --good-bg: #113123; --bad-bg: #3b1219 } }
body { font: 15px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page); margin: 0 }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.5rem 5rem }
h1 { font-size: 1.9rem; letter-spacing: -.02em; margin: .2rem 0 .4rem }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem }
h2 .small { font-weight: 400; font-size: .85rem; margin-left: .4rem } h2 .pill { margin-left: .4rem }
h5 { font-size: 1rem; margin: 2rem 0 .4rem } h6 { font-size: .85rem; color: var(--soft); margin: .8rem 0 .2rem }
a { color: inherit; text-underline-offset: 3px } .soft { color: var(--soft) } code { font-size: .9em }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; vertical-align: top; padding: .45rem .7rem .45rem 0; border-bottom: 1px solid var(--line) }
th { font-weight: 600; color: var(--soft); font-size: .85rem } .number { text-align: right }
.pill { display: inline-block; padding: .1rem .6rem; border-radius: 1rem; font-weight: 600; font-size: .85rem }
.good { color: var(--good); background: var(--good-bg) } .bad { color: var(--bad); background: var(--bad-bg) }
.failures { list-style: none; padding: 0 } .failures li { border-left: 3px solid var(--bad); padding: .35rem .9rem;
  margin: .4rem 0; background: var(--bad-bg); overflow-wrap: anywhere }
.text-danger { color: var(--bad) } .text-success { color: var(--good) } i.fas { font-style: normal; font-weight: 700 }
.fa-times::before { content: "✗" } .fa-check-circle::before { content: "✓" } th:first-child { min-width: 5rem }
.fa-exclamation-triangle::before { content: "!" } .badge { font-family: ui-monospace, monospace;
  font-size: .85em; overflow-wrap: anywhere } .collapse, [data-toggle=collapse] { display: none }
"""


def publish_docs(built: Path, store: Store, folder: str, title: str, data_hash: str, findings: Findings) -> None:
    """Replace `folder` of the store by the site made from what Great Expectations built."""
    if store.fs.exists(store.at(folder)):
        store.fs.rm(store.at(folder), recursive=True)
    results = {page.stem.split("-", 1)[-1]: page for page in sorted(built.glob("validations/*/**/*.html"))}
    names = {page.relative_to(built / "validations").parts[0]: page for page in results.values()}
    for name, page in names.items():
        store.write_bytes(f"{folder}/{_slug(name)}.html", _page(f"{title} · {name}", _result(name, page)).encode())
    index = _index(title, data_hash, findings, names)
    store.write_bytes(f"{folder}/index.html", _page(f"Validation of {title}", index).encode())


def failing_first(checks: Iterable[Check]) -> list[Check]:
    """Groups with failures first, and inside a group the failing expectations first; otherwise as they were."""
    checks = list(checks)
    failing = {check.group for check in checks if check.failures}
    order = {group: place for place, group in enumerate(dict.fromkeys(check.group for check in checks))}
    return sorted(checks, key=lambda check: (check.group not in failing, order[check.group], not check.failures))


def _index(title: str, data_hash: str, findings: Findings, pages: Iterable[str]) -> str:
    count = sum(1 for check in findings.checks if check.failures)
    verdict = (
        f'<span class="pill bad">{count} of {findings.expectations} expectations fail</span>'
        if count
        else '<span class="pill good">validated</span>'
    )
    return (
        f"<p>{verdict}</p><h1>Validation of {escape(title)}</h1>"
        f'<p class="soft">{findings.expectations} expectations, Great Expectations {escape(findings.library)}, '
        f"content <code>{escape(data_hash)}</code></p>{_failure_list(findings.failures)}"
        f"{_groups(findings.checks, set(pages))}"
        '<p class="soft"><a href="../index.html">The data set\'s report</a></p>'
    )


def _groups(checks: tuple[Check, ...], pages: set[str]) -> str:
    """A table a group: what is expected, why, and whether it holds."""
    parts = []
    for group, members in groupby(failing_first(checks), key=lambda check: check.group):
        found = list(members)
        bad = sum(1 for check in found if check.failures)
        state = f'<span class="pill bad">{bad} fail</span>' if bad else '<span class="pill good">holds</span>'
        places = f"{found[0].places:,} row{'s' if found[0].places != 1 else ''}"
        link = f' <a class="soft" href="{_slug(group)}.html">details</a>' if group in pages else ""
        rows = "".join(map(_check_row, found))
        parts.append(
            f"<h2>{escape(group)} {state} <span class='soft small'>{places}{link}</span></h2>"
            f"<table><tr><th>value</th><th>expected</th><th>because</th><th>result</th></tr>{rows}</table>"
        )
    return "".join(parts)


def _check_row(check: Check) -> str:
    return (
        f"<tr><td><code>{escape(check.column)}</code></td><td>{escape(check.demand)}</td>"
        f"<td>{_code(check.why)}</td><td>{_pill(bool(check.failures))}</td></tr>"
    )


def _code(text: str) -> str:
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


def _failure_list(failures: tuple[Failure, ...]) -> str:
    items = "".join(f"<li>{escape(failure.sentence)}</li>" for failure in failures)
    return f'<h2>What fails</h2><ul class="failures">{items}</ul>' if items else ""


def _result(name: str, page: Path) -> str:
    html = _SCRIPTS.sub("", page.read_text())
    match = _CONTENT.search(html)
    content = _DETAILS.sub("", match.group(0) if match else re.sub(r".*?<body[^>]*>", "", html, flags=re.DOTALL))
    content = _SUITE_LINK.sub(r"\1", content).replace("Data asset: None<br>", "")
    return f'<p class="soft"><a href="index.html">← all suites</a></p><h1>{escape(name)}</h1>{content}'


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main>{body}</main></body></html>"
    )


def _pill(bad: bool) -> str:
    return f'<span class="pill {"bad" if bad else "good"}">{"fails" if bad else "holds"}</span>'


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
