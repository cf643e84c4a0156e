"""Runs that Prefect believes to be at work, although kill -9 or a power cut ended them together with their worker.

Left alone they would be waited for forever. The kernel frees their lock, which tells them from runs that live.
"""

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowFilter, FlowFilterName, FlowRunFilter, FlowRunFilterState
from prefect.client.schemas.filters import FlowRunFilterStateType as StateTypes
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Crashed

from umer1_core.versions import is_held, newest

_FLOWS = ["build-cold-start", "reannotate", "train"]


def mark_dead_runs() -> int:
    """Called before a worker starts, when no run of its own can be alive; returns how many were marked Crashed."""
    believed = FlowRunFilter(
        state=FlowRunFilterState(type=StateTypes(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]))
    )
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=_FLOWS)), flow_run_filter=believed)
        dead = [run for run in runs if not _holds_its_lock(run)]
        for run in dead:
            client.set_flow_run_state(run.id, Crashed(message="Its process ended with its worker."), force=True)
    return len(dead)


def _holds_its_lock(run: FlowRun) -> bool:
    if "dataset" in run.parameters:
        return is_held(str(run.parameters["dataset"]), "train")
    version = newest(str(run.parameters.get("recipe", {}).get("output", "")))
    return version is not None and is_held(version.root, "build")
