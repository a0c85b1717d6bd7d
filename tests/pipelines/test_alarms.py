"""What the operator is told of, on a real server: drift, and runs that cannot tell themselves."""

from datetime import timedelta

import pytest
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.events.filters import EventFilter, EventNameFilter
from prefect.states import Cancelled, Completed, Crashed, Late
from prefect.types.entrypoint import EntrypointType

from gmm_dask.config import ThreadsCluster
from gmm_dask.events import silent
from gmm_dask.pipelines import alarms, deployed, sequences
from gmm_dask.pipelines.predict import predict
from tests.pipelines.runs import eventually, read_run, write_part, write_run

SOON = timedelta(seconds=10)  # Prefect's least


@pytest.fixture
def told(tmp_path, monkeypatch):
    path = tmp_path / "told"
    monkeypatch.setenv("GMM_DASK_ON_TROUBLE", f"tee {path}")
    return path


@pytest.fixture
def run(tmp_path):
    return read_run(write_run(tmp_path), f"output.name=boxes-of-{tmp_path.name}")


def event_of(client, name, run):
    """The event about the model of a run, once the server has written it."""
    these = EventFilter(event=EventNameFilter(name=[f"gmm-dask.model.{name}"]))

    def about_the_model():
        events = client.read_events(these, limit=50).events
        return [event for event in events if event.resource.name == run.output.name]

    (event,) = eventually(about_the_model)
    return event


def test_drift_is_a_state_a_message_and_an_event(run, tmp_path, client, told):
    sequences.fit(run, ThreadsCluster(), sequences.directly, silent, "fit")
    write_part(tmp_path, day=4, seed=4, shift=100.0)
    state = deployed.predict(run, return_state=True)
    assert (state.name, state.is_completed()) == ("Drifted", True)
    assert state.message.startswith("new rows differ: mean log-likelihood -")
    assert " of the rows lie below the low-density threshold" in state.message
    assert state.result().total_rows == 4000
    assert f"; run predict {run.output.name} {state.timestamp:%Y-%m-%d} v1 " in told.read_text()
    assert told.read_text().startswith(f"Drifted: {state.message}; flow predict; model boxes-of-")
    event = event_of(client, "drifted", run)
    assert event.payload["message"] == state.message
    assert str(state.state_details.flow_run_id) in str(event.related)
    # Nothing is new, so nothing has drifted.
    assert predict(run, return_state=True).name == "Completed"


MODULE = EntrypointType.MODULE_PATH


def deploy_retrain(run):
    """A deployment whose runs a test moves from state to state by hand."""
    parameters = {"run": run.model_dump(mode="json")}
    name = run.output.name
    deployment = deployed.retrain.to_deployment(
        name=name, parameters=parameters, entrypoint_type=MODULE
    )
    return deployment.apply()


def deploy_alarms(name):
    """The deployments that tell, with alarms that hardly wait."""
    lost = [each.model_copy(update={"within": SOON}) for each in alarms.lost_runs(name)]
    telling = deployed.tell_of.to_deployment(name=name, triggers=lost, entrypoint_type=MODULE)
    silence = deployed.tell_of_silence.to_deployment(
        name=name,
        triggers=[alarms.silence("retrain", name, SOON)],
        parameters={"deployment": f"retrain/{name}", "hours": 26},
        entrypoint_type=MODULE,
    )
    return telling.apply(), silence.apply()


@pytest.mark.slow
def test_late_runs_cancelled_runs_and_silence_start_what_tells(run, client, told):
    retrain = deploy_retrain(run)
    telling, silence = deploy_alarms(run.output.name)

    def begin():
        return client.create_flow_run_from_deployment(retrain).id

    def parameters_of(deployment):
        this = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
        return {
            each.parameters.get("lost", "silence")
            for each in client.read_flow_runs(deployment_filter=this)
        }

    late, begun, cancelled, by_hand, unsubmitted = (begin() for _ in range(5))
    for run_id in (begun, late):
        client.set_flow_run_state(run_id, Late())
    client.set_flow_run_state(begun, Completed())
    client.set_flow_run_state(by_hand, Cancelled(message="by hand"))
    client.set_flow_run_state(cancelled, Cancelled(message="Deployment concurrency limit reached."))
    # As a worker says it, and by itself, since no process of the run ever was.
    why = "Failed to submit flow run to infrastructure: PrefectHTTPStatusError: …"
    client.set_flow_run_state(unsubmitted, Crashed(message=why))
    wanted = {f"prefect.flow-run.{run_id}" for run_id in (late, cancelled, unsubmitted)}
    eventually(lambda: parameters_of(telling) >= wanted)
    assert parameters_of(telling) == wanted
    eventually(lambda: parameters_of(silence) == {"silence"})

    deployed.tell_of(f"prefect.flow-run.{late}")
    text = told.read_text()
    assert text.startswith("Late: was due at ")
    assert "has not begun; is a worker running?; flow retrain; deployment boxes-of-" in text
    assert event_of(client, "late", run).payload["message"] in text
    deployed.tell_of(str(cancelled))
    assert told.read_text().startswith("Cancelled: Deployment concurrency limit reached; flow ret")
    event_of(client, "cancelled", run)
    deployed.tell_of(str(unsubmitted))
    assert told.read_text().startswith("Crashed: Failed to submit flow run to infrastructure: ")


def test_silence_is_told_with_the_last_success_and_only_while_it_lasts(run, client, told):
    retrain = deploy_retrain(run)

    def end(state):
        begun = client.create_flow_run_from_deployment(retrain)
        client.set_flow_run_state(begun.id, state)
        return begun.name

    name = f"retrain/{run.output.name}"
    failed = end(Cancelled(message="by hand"))
    deployed.tell_of_silence(name)
    assert told.read_text().startswith(
        f"Silent: no run has succeeded for 26 hours; the last run, {failed}, ended as Cancelled: "
        "by hand; flow retrain; deployment boxes-of-"
    )
    event_of(client, "silent", run)
    told.unlink()
    end(Completed())
    deployed.tell_of_silence(name)
    assert not told.exists()
    deployed.tell_of_silence(name, hours=0)
    assert "the last that did, " in told.read_text()
