"""Great Expectations at arm's length: frames and suites in; checks with their failures, and Data Docs, out.

Guarantees: nothing is sent anywhere (analytics are off before the import); a sampled row is named by its pair_id and
its text never enters the docs, since Great Expectations writes values into HTML unescaped. An expectation that cannot
be evaluated (an exception inside it, a column that nobody measured) fails.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from umer1_core.validation.words import complaint, demand

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.core.batch_definition import BatchDefinition
    from great_expectations.core.expectation_validation_result import ExpectationValidationResult
    from great_expectations.data_context import EphemeralDataContext
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

SITE = "umer1"
NOTE = "note"  # of a frame's row: what a message about it says further
_NAMED = 5  # failing shards or rows that a message names, of each expectation


@dataclass(frozen=True, slots=True)
class Frame:
    """What one suite is run on. `index`: the column that names a row; `place`: what such a row is, for messages."""

    name: str
    rows: list[dict[str, Any]]
    index: str
    place: str
    private: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """One unmet expectation in one place, and the sentence that says so."""

    expectation: str
    where: str
    column: str
    observed: Any
    sentence: str

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation: what it is about, what it demands and why, and where it was not met."""

    group: str
    column: str
    demand: str
    why: str
    places: int
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Findings:
    checks: tuple[Check, ...]
    library: str

    @property
    def expectations(self) -> int:
        return len(self.checks)

    @property
    def failures(self) -> tuple[Failure, ...]:
        return tuple(failure for check in self.checks for failure in check.failures)


def check(frames: list[Frame], suites: dict[str, list[dict[str, Any]]], docs: Path) -> Findings:
    """Run every frame's suite and write the Data Docs site into `docs`. Frames without rows are not run."""
    gx = _great_expectations()
    context = _context(docs)
    source = context.data_sources.add_pandas("umer1")
    checks: list[Check] = []
    for frame in frames:
        if not frame.rows:
            continue
        suite = context.suites.add(gx.ExpectationSuite(frame.name, expectations=suites[frame.name]))
        batch = source.add_dataframe_asset(frame.name).add_batch_definition_whole_dataframe("rows")
        checks += _check_frame(context, frame, suite, batch)
    context.build_data_docs()
    return Findings(tuple(checks), str(gx.__version__))


def _check_frame(
    context: EphemeralDataContext, frame: Frame, suite: ExpectationSuite, batch: BatchDefinition
) -> Iterator[Check]:
    gx = _great_expectations()
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=frame.name, data=batch, suite=suite))
    measured = list(dict.fromkeys(name for row in frame.rows for name in row))
    columns = dict.fromkeys([*measured, *(e.configuration.kwargs["column"] for e in suite.expectations)])
    parameters = {"dataframe": pd.DataFrame(frame.rows, columns=list(columns))}
    named = [frame.index, NOTE] if NOTE in measured else [frame.index]
    shown: dict[str, Any] = {"result_format": "COMPLETE", "unexpected_index_column_names": named}
    if frame.private:
        shown["partial_unexpected_count"] = 0
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(name=frame.name, validation_definitions=[definition], result_format=shown)
    )
    (result,) = checkpoint.run(batch_parameters=parameters).run_results.values()
    intact = [row for row in frame.rows if row.get("intact", True)]
    for each in result.results:
        config = cast("ExpectationConfiguration", each.expectation_config)
        column = str(config.kwargs["column"])
        unmeasured = bool(intact) and not all(column in row for row in intact)
        failures = _failures(frame, each, unmeasured) if unmeasured or not each.success else []
        why = str(getattr(config, "notes", "") or "")
        yield Check(frame.name, column, demand(config.type, config.kwargs), why, len(frame.rows), tuple(failures))


def _failures(frame: Frame, result: ExpectationValidationResult, unmeasured: bool) -> list[Failure]:
    config = cast("ExpectationConfiguration", result.expectation_config)
    kind, column = config.type, str(config.kwargs["column"])
    places = result.result.get("unexpected_index_list") or []
    if unmeasured or not places:
        cause = " (it was not measured)" if unmeasured else _exception(result)
        sentence = f"{frame.place}: {column} cannot be checked{cause}."
        return [Failure(kind, frame.place, column, None, sentence)]
    found = [_failure(kind, column, config.kwargs, frame, place) for place in places[:_NAMED]]
    more = int(result.result["unexpected_count"]) - len(found)
    if more > 0:
        found.append(Failure(kind, frame.place, column, None, f"{frame.place}: {column} fails in {more:,} more."))
    return found


def _failure(kind: str, column: str, limits: dict[str, Any], frame: Frame, place: dict[str, Any]) -> Failure:
    value, where = place.get(column), f"{frame.place} {place[frame.index]}".strip()
    observed = value.item() if isinstance(value, np.generic) else value
    note = place.get(NOTE)
    said = f"{where}: {column} {complaint(kind, limits, observed)}" + (f" ({note})" if isinstance(note, str) else "")
    return Failure(kind, where, column, observed, said)


def _exception(result: ExpectationValidationResult) -> str:
    """The message of an exception inside an expectation: one for it, or one for each of its metrics."""
    information: dict[str, Any] = result.exception_info or {}
    nested = [each for each in information.values() if isinstance(each, dict)]
    messages = (each.get("exception_message") for each in (information, *nested))
    message = next((str(each) for each in messages if each), "")
    return f" ({message[:120]})" if message else ""


def _context(docs: Path) -> EphemeralDataContext:
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = _great_expectations().get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    for name, site in list(context.list_data_docs_sites().items()):
        context.delete_data_docs_site(name)
        shutil.rmtree(site["store_backend"]["base_directory"], ignore_errors=True)
    backend = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(docs)}
    context.add_data_docs_site(
        SITE, {"class_name": "SiteBuilder", "store_backend": backend, "show_how_to_buttons": False}
    )
    return context


def _great_expectations() -> Any:
    """Imported late: it takes seconds, and its analytics are switched off before."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations

    return great_expectations
