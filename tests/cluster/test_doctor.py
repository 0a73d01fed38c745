"""The doctor finds what would stop a run, and says the way out."""

import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import boto3
import pytest
import ray
import torch
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from pipeline.cluster import cluster_checks, costs, node
from pipeline.cluster.doctor import Examination, doctor
from pipeline.cluster.node import Device, Node, Speed
from pipeline.config import Config
from pipeline.data import s3
from pipeline.data.local import LocalStore
from pipeline.models.loading import load_teacher
from pipeline.training.flops import planned_flops
from pipeline.utils.errors import UserError
from tests.families.builders import BUILDERS
from tests.fixtures.in_process import make_pairs
from tests.fixtures.tiny_models import save_tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def healthy(tmp_path):
    """Makes a run that nothing stops; branches as overridden."""

    def make(**branches) -> Config:
        tree = {
            "run": str(tmp_path / "run"),
            "data": {"name": None},
            "network": {"channels": [8], "attention": [False], "norm_groups": 4},
            "teacher": {"kind": "gaussian", "gaussian": {"shape": [1, 4, 4], "classes": 3}},
            "pairs": {"count": 96, "shard_size": 16, "steps": 3},
            "distill": {"steps": 8, "regression_steps": 3, "burn_in_steps": 2},
            "doctor": {"patience": 120},
        }
        for name, branch in branches.items():
            tree[name] = tree.get(name, {}) | branch
        return Config.model_validate(tree)

    return make


def faults(config: Config) -> dict[str, str]:
    return {each.title: each.text for each in Examination(config).findings() if each.mark == "FAIL"}


@pytest.fixture
def bucket(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "some-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "some-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    s3._connect.cache_clear()
    with mock_aws():
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield
    s3._connect.cache_clear()


def test_a_run_that_can_go_gets_a_plan_and_a_price(ray_cluster, healthy, capsys, tmp_path):
    doctor(healthy())
    printed = capsys.readouterr().out
    assert "FAIL" not in printed
    for title in (
        "teacher",
        "solver",
        "pair set",
        "Ray",
        "network",
        "versions",
        "workers",
        "memory",
    ):
        assert f"ok    {title} " in printed
    assert "pairs: 96 pairs in 6 shards" in printed
    assert "cost  in all: " in printed
    assert re.search(r"cost  distill: .* TFLOP an image", printed)
    left = [path.name for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [], "it leaves nothing behind"


@pytest.mark.cluster
def test_a_wrong_token(ray_cluster, healthy, tmp_path):
    address = ray.get_runtime_context().gcs_address
    flags = ["--config", "configs/gaussian.yaml", "--run", str(tmp_path)]
    env = os.environ | {"RAY_ADDRESS": address, "RAY_AUTH_TOKEN": "0" * 64}
    command = [sys.executable, "jobs/doctor.py", *flags]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "FAIL  Ray " in done.stdout
    assert "RAY_AUTH_TOKEN" in done.stdout and "0" * 64 not in done.stdout + done.stderr
    assert re.fullmatch(r"1 of \d checks failed: Ray", done.stderr.splitlines()[-1])


def test_a_dead_address_is_one_finding(healthy, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    found = faults(healthy())
    assert list(found) == ["Ray"]
    assert found["Ray"].startswith("RAY_ADDRESS 127.0.0.1:1: no Ray head there ([Errno 111]")


def test_finished_pairs_need_no_right_to_write(ray_cluster, healthy, monkeypatch):
    config = healthy()
    make_pairs(config)
    plain = LocalStore.put

    def put(self: LocalStore, name: str, data: bytes) -> bool:
        assert str(self.folder) != config.pairs.output, "it writes"
        return plain(self, name, data)

    monkeypatch.setattr(LocalStore, "put", put)
    found = {each.title: each for each in Examination(config).findings()}
    assert all(each.mark == "ok" for each in found.values())
    assert found["pairs.output"].text.endswith(" has all pairs")
    assert found["pair set"].text == "of this teacher, none left to be made"


def test_made_pairs_need_no_room(healthy):
    config = healthy()
    make_pairs(config)
    examination = Examination(config)
    examination.nodes = [Node("here", {}, {}, {config.pairs.output: 0})]
    assert examination.check_disk().endswith(" GiB needed")
    next(Path(config.pairs.output).glob("*.parquet")).unlink()
    other = Examination(config)
    other.nodes = examination.nodes
    with pytest.raises(UserError, match="has 0.00 free"):
        other.check_disk()


CHECKS = [name for name in dir(Examination) if name.startswith("check_")]


@pytest.mark.parametrize("broken", CHECKS)
def test_whatever_a_check_raises_is_one_line(broken, healthy, monkeypatch, capsys):
    def breaks(*_: object) -> str:
        raise RuntimeError("\nno such luck\nsecond line")

    for name in CHECKS:
        monkeypatch.setattr(Examination, name, breaks if name == broken else lambda *_: "fine")
    with pytest.raises(UserError, match="1 of .* checks failed"):
        teacher = {"kind": "diffusers", "output": "/teacher"}
        more = {"evaluate": {"reference": "/photos"}, "distill": {"conditions": "stored"}}
        doctor(healthy(teacher=teacher, **more))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line[:4] == "FAIL"]
    assert line.endswith(" RuntimeError: no such luck")


def test_a_warning_stops_no_run(healthy, monkeypatch, capsys):
    for name in set(CHECKS) - {"check_network"}:
        monkeypatch.setattr(Examination, name, lambda *_: "fine")
    monkeypatch.setattr(Examination, "nodes", [Node("8.8.8.8", {}, {}, {})])
    monkeypatch.setattr(Examination, "estimate", lambda _: ["what it costs"])
    doctor(healthy())
    printed = capsys.readouterr().out
    assert "warn  network        " in printed and "FAIL" not in printed
    assert "cost  what it costs" in printed


def test_the_solver_is_compared_with_the_folders_scheduler(healthy, tmp_path):
    assert Examination(healthy(pairs={"solver": "heun"})).check_solver() == "pairs.solver heun"
    for version, name, told in (
        ("sd1", "PNDMScheduler", "takes those of plms: set that for its own images"),
        ("ddpm", "DDPMScheduler", "is stochastic: pairs follow the ODE instead"),
    ):
        folder = save_tiny(tmp_path / version, version)
        teacher = {"kind": "diffusers", "output": str(folder)}
        said = Examination(healthy(teacher=teacher, pairs={"solver": "heun"})).check_solver()
        assert said == f"pairs.solver heun; the folder's {name} {told}"


def test_a_missing_bucket(ray_cluster, healthy, bucket):
    found = faults(healthy(pairs={"output": "s3://other/pairs"}))
    assert "NoSuchBucket; check the bucket's name, or make it" in found["pairs.output"]


def test_no_right_to_write(ray_cluster, healthy, bucket, monkeypatch):
    iam = boto3.client("iam")
    iam.create_user(UserName="reader")
    key = iam.create_access_key(UserName="reader")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
    look = set_initial_no_auth_action_count(0)(faults)
    found = look(healthy(distill={"output": "s3://bucket/run"}))
    assert "AccessDenied" in found["distill.output"]
    assert "rights to read, write and list" in found["distill.output"]
    assert key["SecretAccessKey"] not in str(found)


class _Elsewhere(BaseHTTPRequestHandler):
    """A server that knows the bucket in another region."""

    body = b"<Error><Code>AuthorizationHeaderMalformed</Code></Error>"

    def do_PUT(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(400)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.body)

    do_GET = do_HEAD = do_PUT  # noqa: N815

    def log_message(self, *_):
        pass


def test_a_wrong_region(ray_cluster, healthy, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "some-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "some-secret")
    server = HTTPServer(("127.0.0.1", 0), _Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    own = {"endpoint": f"http://127.0.0.1:{server.server_port}", "region": "us-east-1"}
    found = faults(healthy(pairs={"output": "s3://bucket/pairs"}, s3=own))
    server.shutdown()
    assert "AuthorizationHeaderMalformed; set s3.region to the bucket's" in found["pairs.output"]


def test_another_version_on_a_node(ray_cluster, healthy, monkeypatch):
    mine = cluster_checks.versions()
    monkeypatch.setattr(cluster_checks, "versions", lambda: mine | {"torch": "2.0.0"})
    found = faults(healthy())
    assert "has torch" in found["versions"] and "constraints.txt" in found["versions"]


def test_too_little_gpu_memory(ray_cluster, healthy):
    examination = Examination(healthy())
    gpu = Speed("NVIDIA T4", 1e-3, 1e-3)
    examination.speeds = {"pairs.actors": gpu, "distill.workers": gpu}
    examination.__dict__["_met"] = {"distill.workers": Device("NVIDIA T4", 2**18)}
    found = {each.title: each.text for each in examination.findings() if each.mark == "FAIL"}
    assert list(found) == ["memory"]
    assert "distill.recompute" in found["memory"] and "term networks" in found["memory"]


def test_a_step_takes_what_its_work_takes_at_two_fifths_of_the_peak(healthy):
    config = healthy(distill={"steps": 8, "precision": "bf16", "workers": {"max": 2}})
    teacher, distill = load_teacher(config.teacher), config.distill
    found = planned_flops(distill, config.network, config.seed, config.pairs.guidance, teacher)
    unknown, known = (costs.work(found, distill, name) for name in ("CPU", "NVIDIA H100 80GB HBM3"))
    step = float(re.search(r"([\d.e-]+) a step$", unknown)[1])
    seconds = float(re.search(r"([\d.e-]+) s a step on 2 NVIDIA H100", known)[1])
    assert seconds == pytest.approx(step / 2 / (0.4 * 989), rel=0.05)


def test_a_missing_teacher(ray_cluster, healthy, tmp_path):
    own = {"kind": "diffusers", "output": str(tmp_path / "none")}
    found = faults(healthy(teacher=own, data={"name": "digits", "size": 8}))
    assert "run jobs/teacher.py" in found["teacher"]


def test_no_real_images_to_compare_with(ray_cluster, healthy, tmp_path):
    found = faults(healthy(evaluate={"reference": str(tmp_path / "nowhere")}))
    assert list(found) == ["inputs", "evaluate.reference"]
    assert found["inputs"].startswith("evaluate.reference: ")
    assert found["evaluate.reference"].startswith("evaluate.reference: no images in ")


def test_a_changed_teacher(ray_cluster, healthy):
    make_pairs(healthy())
    other = {"kind": "gaussian", "gaussian": {"shape": [1, 4, 4], "classes": 4}}
    found = faults(healthy(teacher=other))
    assert list(found) == ["pair set"]
    assert "teacher" in found["pair set"] and "choose another folder" in found["pair set"]


def test_a_full_disk(ray_cluster, healthy):
    found = faults(healthy(pairs={"count": 16 * 10**10}))
    assert list(found) == ["disk"]
    assert "free: free space, lower distill.keep or pairs.count" in found["disk"]


def test_no_node_for_a_worker(ray_cluster, healthy, capsys):
    """Memory and work are told all the same."""
    own = {"actors": {"cpus": 1000}}
    found = faults(healthy(pairs=own, doctor={"patience": 3}))
    assert list(found) == ["room"]
    assert "pairs.actors needs 1000 CPU" in found["room"] and "3 seconds" in found["room"]
    with pytest.raises(UserError, match="1 of .* checks failed: room"):
        doctor(healthy(pairs=own, doctor={"patience": 3}))
    told = capsys.readouterr().out
    assert re.search(r"memory +\d+\.\d\d GiB for a worker of distill, if there were one", told)
    assert re.search(r"cost  distill: \S+ TFLOP an image", told) and "price" not in told


def test_a_gpu_that_a_cluster_of_its_own_lacks_is_told_at_once_and_without_a_teacher(
    ray_cluster, healthy, monkeypatch
):
    monkeypatch.setattr("pipeline.cluster.room.owns_cluster", lambda: True)
    gone = {"kind": "diffusers", "output": "/nowhere"}
    found = faults(
        healthy(
            teacher=gone,
            distill={"steps": 8, "regression_steps": 0, "burn_in_steps": 2}
            | {"regression": {"weight": 0}, "workers": {"gpus": 1}},
            doctor={"patience": 10_000},
        )
    )
    assert list(found)[:3] == ["inputs", "room", "teacher"]
    assert found["inputs"].startswith("teacher.output: ")
    needs = "distill.workers needs 1 CPU and 1 GPU, and the cluster has 4 CPUs and 0 GPUs"
    assert found["room"].startswith(needs)
    assert not {"pairs.output", "pair set"} & found.keys(), "it needs none"


def test_each_works_networks_are_timed_in_its_precision(healthy, tmp_path):
    folder = BUILDERS["ddim"].save(tmp_path / "teacher")
    teacher = {"kind": "diffusers", "output": str(folder)}
    settings = healthy(
        teacher=teacher, pairs={"precision": "bf16"}, distill={"precision": "fp32"}
    ).model_dump(mode="json")
    for branch, expected in (("pairs", torch.bfloat16), ("distill", torch.float32)):
        found: set[torch.dtype] = set()

        def note(module: nn.Module, given: tuple, output: object, found=found) -> None:
            if isinstance(module, nn.Conv2d):
                found.add(output.dtype)

        hook = register_module_forward_hook(note)
        node._measured(settings, branch)
        hook.remove()
        assert found == {expected}
