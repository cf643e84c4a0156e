"""Great Expectations at arm's length: frames and suites in, failures and Data Docs out.

Guarantees: nothing is sent anywhere (analytics are off before the import); a sampled row is named by its pair_id and
its text never enters the docs, since Great Expectations writes values into HTML unescaped.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

if TYPE_CHECKING:
    from great_expectations import ExpectationSuite
    from great_expectations.core.batch_definition import BatchDefinition
    from great_expectations.core.expectation_validation_result import ExpectationValidationResult
    from great_expectations.data_context import EphemeralDataContext
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

SITE = "umer1"
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
class Findings:
    failures: tuple[Failure, ...]
    expectations: int
    library: str


def check(frames: list[Frame], suites: dict[str, list[dict[str, Any]]], docs: Path) -> Findings:
    """Run every frame's suite and write the Data Docs site into `docs`."""
    gx = _great_expectations()
    context = _context(docs)
    source = context.data_sources.add_pandas("umer1")
    failures: list[Failure] = []
    count = 0
    for frame in frames:
        suite = context.suites.add(gx.ExpectationSuite(frame.name, expectations=suites[frame.name]))
        batch = source.add_dataframe_asset(frame.name).add_batch_definition_whole_dataframe("rows")
        failures += _check_frame(context, frame, suite, batch)
        count += len(suite.expectations)
    context.build_data_docs()
    return Findings(tuple(failures), count, str(gx.__version__))


def _check_frame(
    context: EphemeralDataContext, frame: Frame, suite: ExpectationSuite, batch: BatchDefinition
) -> list[Failure]:
    gx = _great_expectations()
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=frame.name, data=batch, suite=suite))
    columns = dict.fromkeys([*frame.rows[0], *(e.configuration.kwargs["column"] for e in suite.expectations)])
    parameters = {"dataframe": pd.DataFrame(frame.rows, columns=list(columns))}
    shown: dict[str, Any] = {"result_format": "COMPLETE", "unexpected_index_column_names": [frame.index]}
    if frame.private:
        shown["partial_unexpected_count"] = 0
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(name=frame.name, validation_definitions=[definition], result_format=shown)
    )
    (result,) = checkpoint.run(batch_parameters=parameters).run_results.values()
    failed = [each for each in result.results if not each.success]
    return [failure for each in failed for failure in _failures(frame, each)]


def _failures(frame: Frame, result: ExpectationValidationResult) -> list[Failure]:
    config = cast("ExpectationConfiguration", result.expectation_config)
    kind, column = config.type, str(config.kwargs["column"])
    places = result.result.get("unexpected_index_list") or []
    if not places:
        cause = _exception(result)
        sentence = f"{frame.place}: {column} cannot be checked{cause}."
        return [Failure(kind, frame.place, column, None, sentence)]
    found = [
        _failure(kind, column, config.kwargs, f"{frame.place} {place[frame.index]}".strip(), place.get(column))
        for place in places[:_NAMED]
    ]
    more = int(result.result["unexpected_count"]) - len(found)
    if more > 0:
        found.append(Failure(kind, frame.place, column, None, f"{frame.place}: {column} fails in {more:,} more."))
    return found


def _failure(kind: str, column: str, limits: dict[str, Any], where: str, value: Any) -> Failure:
    observed = value.item() if hasattr(value, "item") else value
    return Failure(kind, where, column, observed, f"{where}: {column} {_complaint(kind, limits, observed)}")


def _complaint(kind: str, limits: dict[str, Any], value: Any) -> str:
    low, high = limits.get("min_value"), limits.get("max_value")
    match kind:
        case "expect_column_values_to_be_between" if low == high:
            return f"is {_number(value)}, not {_number(low)}"
        case "expect_column_values_to_be_between" if high is not None and value > high:
            return f"{_number(value)} is above {_number(high)}"
        case "expect_column_values_to_be_between":
            return f"{_number(value)} is below {_number(low)}"
        case "expect_column_values_to_not_be_null":
            return "is missing"
        case "expect_column_values_to_match_regex":
            return f"does not have its form: {str(value)[:80]!r}"
        case _ if limits.get("value_set") == [True]:
            return "is false: the file is missing or is not the one its entry names"
    return f"{value!r:.80} is not one of {', '.join(map(str, limits.get('value_set', [])))}"


def _number(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) and value != int(value) else f"{int(value):,}"


def _exception(result: ExpectationValidationResult) -> str:
    message = (result.exception_info or {}).get("exception_message")
    return f" ({str(message)[:120]})" if message else ""


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
