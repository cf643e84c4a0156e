"""The gate before training: measure the shards, hold them against the suites, and only then set the marker.

Guarantees: `_VALIDATED.json` is removed first and written last, so it exists only for a data set that met every
expectation, and it names the content it is for; `require_validated` accepts no other. Memory does not grow with the
data set: shards are read two at a time, totals are counted by DuckDB.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from schemas.recipe import Validation
from schemas.suites import suites
from umer1_core.errors import StorageError, ValidationFailed
from umer1_core.store import Store
from umer1_core.validation.docs import publish_docs
from umer1_core.validation.expectations import Check, Failure, Findings, Frame, check
from umer1_core.validation.metrics import shard_metrics
from umer1_core.validation.sample import Sampler
from umer1_core.validation.sources import modality_metrics, published_metrics, source_metrics
from umer1_core.validation.totals import dataset_metrics, identities, rl_blocks, table_metrics

MARKER = "_VALIDATED.json"
DOCS = "report/validation"


@dataclass(frozen=True, slots=True)
class ValidationOutcome:
    """`docs` is where the Data Docs start, for a person to open."""

    docs: str
    checks: tuple[Check, ...]

    @property
    def failures(self) -> tuple[Failure, ...]:
        return tuple(failure for each in self.checks for failure in each.failures)

    @property
    def success(self) -> bool:
        return not self.failures

    @property
    def expectations(self) -> int:
        return len(self.checks)

    @property
    def message(self) -> str:
        """One sentence per failure."""
        return "\n".join(failure.sentence for failure in self.failures)


def validate(
    store: Store,
    validation: Validation,
    data_hash: str,
    parent: Store | None = None,
    held_out: Store | None = None,
) -> ValidationOutcome:
    """Check a published data set. On success the marker is set for `data_hash`.

    parent: the version before, for the drift of kept shares. held_out: the tables of the evaluation's pairs, for
    leakage. What is not given is not compared.
    """
    store.delete(MARKER)
    frames = measure(store, validation, parent, held_out)
    with tempfile.TemporaryDirectory(prefix="umer1-validation-") as folder:
        findings = check(frames, suites(validation), Path(folder))
        publish_docs(Path(folder), store, DOCS, " ".join(store.root.split("/")[-2:]), data_hash, findings)
    if not findings.failures:
        store.write_json(MARKER, _marker(data_hash, findings, parent, held_out))
    return ValidationOutcome(f"{store.root}/{DOCS}/index.html", findings.checks)


def validate_version(store: Store, validation: Validation, held_out: Store | None = None) -> ValidationOutcome:
    """Check a finished version again, against its parent where that is still there."""
    manifest = store.read_json("manifest.json")
    if manifest is None:
        raise StorageError(f"{store.root} holds no finished data set.", "Give the folder of a version, as runs/x/v1.")
    return validate(store, validation, manifest["data_hash"], parent_of(store), held_out)


def parent_of(store: Store) -> Store | None:
    """The nearest ancestor that met its expectations: one that did not is no measure of what a share should be.

    Ancestors lie beside the version, wherever the data set was moved.
    """
    while name := str((store.read_json("manifest.json") or {}).get("parent") or "").rstrip("/").rpartition("/")[2]:
        store = Store(f"{store.root.rpartition('/')[0]}/{name}")
        if store.exists(MARKER):
            return store
    return None


def require_validated(store: Store, data_hash: str) -> None:
    """Raises ValidationFailed unless exactly this content was validated."""
    marker = store.read_json(MARKER)
    if marker is None:
        raise ValidationFailed(
            f"The data set at {store.root} has not been validated.",
            f"Run `umer1 validate {store.root}`; {DOCS}/index.html then says what is wrong with it, if anything.",
        )
    if marker.get("data_hash") != data_hash:
        raise ValidationFailed(
            f"The data set at {store.root} changed after it was validated on {marker.get('validated')}: "
            f"its hash is {data_hash}, validated was {marker.get('data_hash')}.",
            f"Run `umer1 validate {store.root}` again.",
        )


def measure(
    store: Store, validation: Validation, parent: Store | None = None, held_out: Store | None = None
) -> list[Frame]:
    """What the suites are run on.

    Counts over tables and the sample are taken only where every shard is intact; otherwise they mean nothing.
    """
    sampler = Sampler(validation.sample_rows, sum(entry.rows for entry in store.entries("cold_start")))
    shards = shard_metrics(store, sampler)
    frames = [
        Frame("data set", dataset_metrics(store), "data_set", "data set"),
        Frame("tables", table_metrics(store), "table", "table"),
        *(Frame(table, rows, "shard", f"{table} shard") for table, rows in shards.items()),
    ]
    if not all(row["intact"] for rows in shards.values() for row in rows):
        return frames
    sources = source_metrics(store, parent, held_out)
    published = published_metrics(sources) if validation.published_rates else []
    return [
        *frames,
        Frame("totals", identities(store), "identity", "totals:"),
        Frame("sources", sources, "source", "source"),
        Frame("published", published, "source", "source"),
        Frame("modalities", modality_metrics(store), "modality", "RL pairs of modality"),
        Frame("blocks", rl_blocks(store), "block", "rl block"),
        Frame("sample", sampler.sample(), "pair_id", "cold_start pair", private=True),
    ]


def _marker(data_hash: str, findings: Findings, parent: Store | None, held_out: Store | None) -> dict[str, object]:
    return {
        "data_hash": data_hash,
        "validated": datetime.now(UTC).isoformat(timespec="seconds"),
        "expectations": findings.expectations,
        "great_expectations": findings.library,
        "parent": parent.root if parent else "",
        "held_out": held_out.root if held_out else "",
    }
