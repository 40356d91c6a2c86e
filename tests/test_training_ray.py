"""Both stages on Ray Train with two workers, killed and gone on with, as people run them."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import tiny_training as tiny
from styleblend import model
from styleblend.config.tracking import Tracking
from styleblend.errors import StyleBlendError
from styleblend.registry import mlflow_store, runs
from styleblend.training import beginning, checkpoint, loop, ray_trainer, record
from styleblend.training.inputs import read as read_inputs
from styleblend.weights.start import fill, start
from thread_workers import Together

REPOSITORY = Path(__file__).parent.parent


def write_params(folder: Path, **changes: object) -> None:
    """The committed params.yaml at the tiny size."""
    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    params["model"] = tiny.MODEL.model_dump(mode="json")
    params["align"]["size_px"] = tiny.SIDE_PX
    settings = tiny.training(workers=2, **changes).model_dump(mode="json")
    params["train_encoder"], params["finetune_decoder"] = settings, {**settings, "steps": 2}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def command(inputs: dict[str, Path]) -> list[str]:
    """How DVC starts the stage."""
    arguments = [f"--{name}={path}" for name, path in inputs.items()]
    return [sys.executable, "-m", "styleblend.stages.train_encoder", *arguments, "--out=encoder"]


class Running:
    """A command in a process group of its own; on leaving the block nothing of it lives on."""

    def __init__(self, folder: Path, command: list[str], env: dict[str, str] | None = None) -> None:
        self.marker = f"STYLEBLEND_TEST={uuid.uuid4()}"
        name, value = self.marker.split("=")
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", name: value, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def read_until(self, text: str) -> str:
        """The output up to a line with `text`."""
        assert self.process.stdout is not None
        read = ""
        for line in self.process.stdout:
            read += line
            if text in line:
                return read
        raise AssertionError(f"it ended without '{text}':\n{read}")

    def read_to_step(self, least: int) -> int:
        """The first step of at least `least` that a line of figures names."""
        step = 0
        while step < least:
            step = int(self.read_until(": step ").rpartition(": step ")[2].split("/")[0])
        return step

    def rest(self) -> str:
        """The output until the end."""
        return self.process.communicate()[0]

    def living(self) -> list[str]:
        """Processes that inherited this command's environment: its own, and all that Ray started for it."""
        return [name for _, name in self._found("comm")]

    def pids(self, name: str) -> list[int]:
        """Those of them that have `name` in their command line."""
        return [pid for pid, line in self._found("cmdline") if name in line]

    def _found(self, fact: str) -> list[tuple[int, str]]:
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.marker.encode() in (entry / "environ").read_bytes():
                    found.append((int(entry.name), (entry / fact).read_text()))
            except OSError:
                continue
        return found


def hostile(folder: Path) -> dict[str, str]:
    """Variables that a person may have, with which Ray, Prefect or their clients would not start."""
    temporary = folder / "a-temporary-folder-with-a-long-name-as-clusters-have-it-for-each-of-their-jobs"
    temporary.mkdir()
    dead = "http://127.0.0.1:9"
    return {
        "RAY_ADDRESS": "127.0.0.1:6399", "RAY_NAMESPACE": "other", "RAY_TMPDIR": "/nowhere", "TMPDIR": str(temporary),
        "http_proxy": dead, "https_proxy": dead, "grpc_proxy": dead, "ALL_PROXY": "socks5://127.0.0.1:9",
        "HOME": str(folder / "nowhere"),
    }  # fmt: skip


def test_a_new_encoder_takes_the_mean_code_alone(tmp_path: Path) -> None:
    """Pretrained means every weight of the file; new means untouched weights beside the file's mean code."""
    networks = tmp_path / "networks"
    tiny.write_networks(networks)
    stored = model.build_encoder(tiny.MODEL)
    stored.mean_code.normal_()
    save_file(stored.state_dict(), networks / "encoder.safetensors")
    for way in ("pretrained", "new"):
        swapper = model.build(tiny.MODEL)
        before = {name: value.clone() for name, value in swapper.encoder.state_dict().items()}
        start(swapper, tiny.MODEL, networks, way)  # type: ignore[arg-type]
        wanted = stored.state_dict() if way == "pretrained" else before | {"mean_code": stored.mean_code}
        assert all(value.equal(wanted[name]) for name, value in swapper.encoder.state_dict().items())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_stage_that_is_killed_in_every_way_ends_as_if_undisturbed(tmp_path: Path) -> None:
    """SIGKILL to the group of `dvc repro`, to a worker, to DVC alone: the weights are those of an undisturbed training.

    After a worker nothing is to be done, after the others one `dvc repro`. `benchmarks/faults.py` does many more.
    """
    inputs = tiny.write_inputs(tmp_path)
    settings = {"steps": 60, "probe_every": 30, "checkpoint_every": 2, "log_every": 2}
    write_params(tmp_path, **settings, max_failures=1)
    paths = {name: path.relative_to(tmp_path) for name, path in inputs.items()}
    stage = {"cmd": shlex.join(command(paths)), "deps": [str(path) for path in paths.values()], "outs": ["encoder"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"train_encoder": stage}}))
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "--quiet"], cwd=tmp_path, check=True)
    with Running(tmp_path, [*dvc, "repro"]) as killed:
        killed.read_until("step 8/60")
    assert not (tmp_path / "encoder").exists()

    with Running(tmp_path, [*dvc, "repro"]) as again:
        resumed = int(again.read_until("resumed at step ").split("resumed at step ")[1].split()[0])
        # Workers outlive the group that was killed by some steps.
        assert 6 <= resumed < 50
        again.read_to_step(resumed + 2)
        os.kill(again.pids("RayTrainWorker")[0], signal.SIGKILL)
        again.read_until("failure 1 of 1 since step ")
        reached = again.read_to_step(resumed + 4)
        # Its stage ends by itself, and the next one waits for that.
        again.process.kill()
        # As a shell does: DVC takes a process that nobody has waited for as one that is at work.
        again.process.wait()
        with Running(tmp_path, [*dvc, "repro"]) as last:
            output = last.rest()
    assert last.process.returncode == 0, output
    assert int(output.split("resumed at step ")[1].split()[0]) >= reached - 2 and "step 60/60" in output
    facts = json.loads((tmp_path / "encoder" / "model.json").read_text())
    assert facts["stage"] == "train_encoder" and facts["step"] == 60
    assert facts["alignment"]["template"] == "ffhq" and facts["alignment"]["size_px"] == 32
    assert [row["step"] for row in json.loads((tmp_path / "encoder" / "history.json").read_text())] == [0, 30, 60]
    # What a longer training would begin from is kept, and nothing else.
    (state,) = (tmp_path / ".state").glob("train_encoder-*")
    assert {path.name for path in state.iterdir()} == {"checkpoints", "trainer.lock"}
    assert [each.step for each in checkpoint.kept(state / "checkpoints")] == [60]
    model.load(tmp_path / "encoder")
    weights, wanted = load_file(tmp_path / "encoder" / "swapper.safetensors"), undisturbed(inputs, tmp_path, settings)
    assert weights.keys() == wanted.keys()
    assert not [name for name, value in weights.items() if not torch.equal(value, wanted[name])]


def undisturbed(inputs: dict[str, Path], folder: Path, settings: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The averaged weights of the same training in this process: its two workers are threads, and no Ray is there."""
    cfg, device = tiny.training(workers=2, **settings), torch.device("cpu")
    learners = [
        beginning.learner("train_encoder", tiny.MODEL, cfg, inputs["networks"], None, None, device) for _ in range(2)
    ]
    places = (inputs[name] for name in ("networks", "splits", "faces", "perceived"))
    read = read_inputs(cfg, learners[0], *places, device)

    def work(worker: loop.Worker) -> None:
        loop.train(cfg, learners[worker.rank], *read, folder / "undisturbed", worker, loop.Recorder())

    Together(2).run(work)
    return learners[0].averaged.state_dict()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sigterm_ends_the_workers_and_mistakes_are_one_line(tmp_path: Path) -> None:
    """SIGTERM leaves no process behind; a picture that is gone is named in the stage's last line.

    Both in environments that name another cluster, a temporary folder too long for sockets, proxies that do not answer
    and no home folder.
    """
    env = hostile(tmp_path)
    inputs = tiny.write_inputs(tmp_path)
    write_params(tmp_path, steps=5000, probe_every=5000, checkpoint_every=1000)
    with Running(tmp_path, command(inputs), env) as stage:
        stage.read_until("step 2/5000")
        assert len(stage.living()) > 3
        stage.process.send_signal(signal.SIGTERM)
        output = stage.rest()
        assert stage.process.returncode not in (0, None) and "Traceback" not in output, output
        deadline = time.monotonic() + 20
        while stage.living() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not stage.living() and not (tmp_path / "encoder").exists()

    write_params(tmp_path, steps=3, max_failures=0)
    (inputs["faces"] / "images" / "tiny-5-0.png").unlink()
    with Running(tmp_path, command(inputs), env) as stage:
        last = stage.rest().strip().splitlines()[-1]
    assert stage.process.returncode == 1
    assert last.startswith("styleblend train_encoder: ") and "tiny-5-0.png cannot be read" in last


def test_both_stages_leave_models_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker without Ray: the first stage keeps D's synthesis, the second changes D alone; both are in MLflow."""
    inputs = tiny.write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    store = mlflow_store.resolved(Tracking())
    parent = runs.start_pipeline(store, "test", {})
    folders = []
    for stage in ("train_encoder", "finetune_decoder"):
        job = ray_trainer.Job(
            stage=stage,  # type: ignore[arg-type]
            fingerprint="0" * 16,
            model=tiny.MODEL,
            training=tiny.training(steps=2),
            tracking=store,
            parent_run_id=parent,
            state=tmp_path / stage,
            encoder=folders[0] if folders else None,
            **inputs,
        )
        ray_trainer.train_job(job, loop.Worker())
        folders.append(job.state / ray_trainer.RESULT)
    before, after = (load_file(folder / "swapper.safetensors") for folder in folders)
    for name, value in load_file(inputs["networks"] / "decoder.safetensors").items():
        assert torch.equal(before[f"decoder.{name}"], value), name
    assert {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])} == {"decoder"}

    from mlflow import MlflowClient  # after the package's own import of it, which turns telemetry off

    client = MlflowClient(store.uri)
    for folder in folders:
        ids = json.loads((folder / "run.json").read_text())
        logged = client.get_run(ids["run_id"])
        assert ids["parent_run_id"] == parent == logged.data.tags["mlflow.parentRunId"]
        assert logged.info.status == "FINISHED" and "loss/identity" in logged.data.metrics
        assert len(client.list_artifacts(ids["run_id"], "probe")) == 2
        assert "alarm/judge_gap" in logged.data.metrics and "probe/judge_share" in logged.data.metrics
        assert logged.data.tags["alarms"]
    # Both stages are in the record of the second, which began where the first had begun.
    first, both = (record.read(folder) for folder in folders)
    assert list(both.stages) == ["train_encoder", "finetune_decoder"] and both.began_with == first.began_with
    for stage, folder in zip(both.stages.values(), folders, strict=True):
        assert stage["probe"] == json.loads((folder / "history.json").read_text())
        assert [row["step"] for row in stage["losses"]] == [1, 2] and "identity" in stage["losses"][0]


def test_a_second_trainer_on_the_same_state_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a live process holds the state, another is told who it is; a lock file left by a dead one is nothing."""
    state = tmp_path / "state"
    job = ray_trainer.Job(
        stage="train_encoder",
        fingerprint="0" * 16,
        model=tiny.MODEL,
        training=tiny.training(),
        tracking=Tracking(),
        parent_run_id="",
        state=state,
        splits=tmp_path,
        faces=tmp_path,
        perceived=tmp_path,
        networks=tmp_path,
        encoder=None,
    )
    monkeypatch.setattr(ray_trainer, "_LOCK_SECONDS", 0)
    with ray_trainer.lock(state / "trainer.lock", wait_s=0):
        holder = f"process {os.getpid()} is already training in {state}"
        with pytest.raises(StyleBlendError, match=holder):
            ray_trainer.run(job)
    (state / "trainer.lock").write_text("999999")
    (state / ray_trainer.RESULT).mkdir()
    (state / ray_trainer.RESULT / "model.json").write_text(json.dumps({"step": job.training.steps}))
    assert ray_trainer.run(job) == state / ray_trainer.RESULT
    # A result of fewer steps, which a kill kept from its place, is none of this training's.
    monkeypatch.setattr(ray_trainer, "_fit", lambda job: (_ for _ in ()).throw(KeyboardInterrupt))
    longer = ray_trainer.Job(**{**vars(job), "training": tiny.training(steps=job.training.steps + 1)})
    with pytest.raises(KeyboardInterrupt):
        ray_trainer.run(longer)


@pytest.mark.parametrize(("progress", "ends"), [(True, True), (False, False)])
def test_failures_count_only_until_the_next_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, progress: bool, ends: bool
) -> None:
    """Five lost workers end no run that may lose one, if each time it came further; else the second one ends it."""
    cfg = tiny.training(steps=9, max_failures=1)
    job = ray_trainer.Job("train_encoder", "0", tiny.MODEL, cfg, Tracking(), "", tmp_path, *(tmp_path,) * 4)
    fits: list[int] = []

    def lose_a_worker(job: ray_trainer.Job) -> None:
        fits.append(len(fits))
        if progress or len(fits) == 1:
            step = {"step": len(fits), "planned": 9, "attempt": 0, "good": True}
            checkpoint.save(job.state / ray_trainer.CHECKPOINTS, {}, {}, **step)
        if len(fits) <= 5:
            raise RuntimeError("a worker is gone")

    monkeypatch.setattr(ray_trainer, "_fit", lose_a_worker)
    if ends:
        assert ray_trainer.run(job) == tmp_path / ray_trainer.RESULT and len(fits) == 6
        assert (tmp_path / "progress.log").read_text().count("failure 1 of 1 since step") == 5
    else:
        with pytest.raises(RuntimeError, match="gone"):
            ray_trainer.run(job)
        assert len(fits) == 2


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    """Only the pathway's weights may be missing from a pretrained decoder."""
    tiny.write_networks(tmp_path / "networks")
    decoder = model.build_decoder(tiny.MODEL)
    file = tmp_path / "networks" / "decoder.safetensors"
    with pytest.raises(StyleBlendError, match=r"missing \['pathway"):
        fill(decoder, file, new=())
    fill(decoder, file, new=("pathway.",))
    assert torch.equal(decoder.constant, load_file(file)["constant"])
    wider = model.build_decoder(tiny.MODEL.model_copy(update={"style_dim": 32}))
    with pytest.raises(StyleBlendError, match="does not fit the section model"):
        fill(wider, file, new=("pathway.",))
    with pytest.raises(StyleBlendError, match="is missing"):
        fill(decoder, tmp_path / "none.safetensors", new=())
