"""`irstd run FLOW`: a deployed flow by its bare name.

Prefect addresses deployments as FLOW/DEPLOYMENT (`prefect deployment run train-flow/default`); ours are all called
`default`, so here the flow's name is enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import LogSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.importtools import import_object

from irstd.errors import InputError, nearest
from irstd.workspace import Workspace
from pipelines import FLOWS
from pipelines.parameters import flow_parameters

Say = Callable[[str], None]


def _say(line: str) -> None:
    print(line, flush=True)


def parse_parameters(flow: str, pairs: Iterable[str]) -> dict[str, Any]:
    """The parameters of `flow` in `key=value` pairs: its own, or dotted paths into the configuration."""
    return flow_parameters(import_object(FLOWS[bare_name(flow)]), pairs)


def run_deployment(
    flow: str,
    parameters: Mapping[str, Any],
    workspace: Workspace,
    watch: bool = True,
    *,
    say: Say = _say,
) -> int:
    """Start a run of `flow` on the running stack; with `watch`, print its log and wait for its end.

    The exit status: 0 Completed (or started, without `watch`), 2 the input was refused, 1 anything else.
    """
    name = f"{bare_name(flow)}/default"
    api = workspace.prefect_api
    if not api:
        raise InputError("the stack is not up: start it with `irstd up`")
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(name)
            run = client.create_flow_run_from_deployment(deployment.id, parameters=dict(parameters))
        except ObjectNotFound:
            raise InputError(f"{name} is not deployed at {api}: run `irstd down`, then `irstd up`") from None
        except PrefectHTTPStatusError as error:
            raise InputError(f"{name}: {_detail(error)}") from None
        page = f"{api.removesuffix('/api')}/runs/flow-run/{run.id}"
        say(f"{name} is run as {run.name!r}: {page}")
        if not watch:
            return 0
        try:
            run = _watch(client, run, say)
        except KeyboardInterrupt:
            say(f"the run goes on; end it with: prefect flow-run cancel {run.id}")
            raise
    if run.state.is_completed():
        say(f"{run.name}: {run.state.name}")
        return 0
    _, refused, why = (run.state.message or "").partition("BadInput: ")
    say(f"{run.name}: {run.state.name}: {why if refused else run.state.message}")
    return 2 if refused else 1


def bare_name(flow: str) -> str:
    """`flow` without `/default`; `InputError` where there is no such flow."""
    name = flow.removesuffix("/default")
    if name not in FLOWS:
        raise InputError(f"no flow {flow!r}{nearest(name, FLOWS)}; there are: {', '.join(FLOWS)}")
    return name


def _watch(client: SyncPrefectClient, run: FlowRun, say: Say) -> FlowRun:
    """Print the run's log until it has ended."""
    told, state = 0, ""
    while True:
        # The state first: the lines that came before the end are then read after it.
        run = client.read_flow_run(run.id)
        if run.state.name != state:
            state = run.state.name
            say(f"· {state}")
        for entry in _more(client, run, told):
            told += 1
            # The first line: the others are tracebacks of Prefect's own engine, and stand on the run's page.
            say(f"  {entry.message.splitlines()[0] if entry.message else ''}")
        if run.state.is_final():
            return run
        time.sleep(1.0)


def _more(client: SyncPrefectClient, run: FlowRun, told: int) -> Iterable[Any]:
    while True:
        found = client.read_logs(
            log_filter=LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])),
            sort=LogSort.TIMESTAMP_ASC,
            offset=told,
            limit=200,
        )
        yield from found
        told += len(found)
        if len(found) < 200:
            return


def _detail(error: PrefectHTTPStatusError) -> str:
    """The server's own words about a request that it refused."""
    try:
        found = error.response.json()
        return " ".join(str(found.get("detail") or found.get("exception_message") or found).split())
    except ValueError:
        return " ".join(str(error).split())
