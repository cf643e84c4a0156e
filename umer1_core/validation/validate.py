"""The gate before training: measure the shards, hold them against the suites, and only then set the marker.

Guarantees: `_VALIDATED.json` is removed first and written last, so it exists only for a data set that met every
expectation, and it names the content it is for; `require_validated` accepts no other.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from schemas.recipe import Validation
from schemas.suites import suites
from umer1_core.errors import ValidationFailed
from umer1_core.store import Store
from umer1_core.validation.docs import publish_docs
from umer1_core.validation.expectations import Failure, Frame, check
from umer1_core.validation.metrics import dataset_metrics, identities, sample_cold_start, shard_metrics

MARKER = "_VALIDATED.json"
DOCS = "report/validation"


@dataclass(frozen=True, slots=True)
class ValidationOutcome:
    """`docs` is where the Data Docs start, for a person to open."""

    success: bool
    failures: tuple[Failure, ...]
    docs: str
    expectations: int = 0

    @property
    def message(self) -> str:
        """One sentence per failure."""
        return "\n".join(failure.sentence for failure in self.failures)


def validate(store: Store, validation: Validation, data_hash: str) -> ValidationOutcome:
    """Check a published data set. On success the marker is set for `data_hash`."""
    store.delete(MARKER)
    frames = _frames(store, validation)
    with tempfile.TemporaryDirectory(prefix="umer1-validation-") as folder:
        findings = check(frames, suites(validation), Path(folder))
        publish_docs(Path(folder), store, DOCS, " ".join(store.root.split("/")[-2:]), data_hash, findings)
    if not findings.failures:
        store.write_json(
            MARKER,
            {
                "data_hash": data_hash,
                "validated": datetime.now(UTC).isoformat(timespec="seconds"),
                "expectations": findings.expectations,
                "great_expectations": findings.library,
            },
        )
    return ValidationOutcome(
        not findings.failures, findings.failures, f"{store.root}/{DOCS}/index.html", findings.expectations
    )


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


def _frames(store: Store, validation: Validation) -> list[Frame]:
    """Counts over tables and the sample are taken only where every shard is intact; otherwise they mean nothing."""
    shards = shard_metrics(store)
    frames = [Frame("data set", dataset_metrics(store), "data_set", "data set")]
    frames += [Frame(table, rows, "shard", f"{table} shard") for table, rows in shards.items() if rows]
    if all(row["intact"] for rows in shards.values() for row in rows):
        frames.append(Frame("totals", identities(store), "identity", "totals:"))
        sample = sample_cold_start(store, validation.sample_rows)
        if sample:
            frames.append(Frame("sample", sample, "pair_id", "cold_start pair", private=True))
    return frames
