"""deploy/kuberay and the Dockerfile: what can be told of them without a Kubernetes or a Docker."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from ray.scripts.scripts import drain_node

from pipeline import cli
from pipeline.config import Config

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kuberay"
SCHEMA = json.loads((Path(__file__).parent / "kuberay_schema.json").read_text())
JOBS = ["pairs", "distill"]
PINS = dict(
    line.split(" ")[0].split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()
)


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def problems(document: dict[str, Any]) -> list[str]:
    schema = {**SCHEMA, "$ref": f"#/$defs/{document['kind']}"}
    return [error.message for error in Draft202012Validator(schema).iter_errors(document)]


def at(tree: Any, path: str) -> Any:
    for key in path.split("."):
        tree = tree[int(key) if key.isdigit() else key]
    return tree


def settings(job: str) -> Config:
    """The settings that a job of a manifest would start with."""
    python, script, *arguments = shlex.split(manifest(job)["spec"]["entrypoint"])
    assert (python, script) == ("python", f"jobs/{job}.py") and (ROOT / script).is_file()
    return cli.load(arguments)


@pytest.fixture
def worker() -> dict[str, Any]:
    (group,) = manifest("cluster")["spec"]["workerGroupSpecs"]
    return group


@pytest.mark.parametrize("name", sorted(file.stem for file in FOLDER.iterdir()))
def test_kuberay_and_kubernetes_know_every_field(name: str) -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert problems(manifest(name)) == []


POD = "spec.workerGroupSpecs.0.template.spec"


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        ("spec", "enableInTreeAutoscalling", True),
        ("spec.authOptions", "mode", "tokn"),
        ("spec.autoscalerOptions", "idleTimeoutSecond", 60),
        ("spec.autoscalerOptions.securityContext", "allowPrivilegedEscalation", False),
        ("spec.headGroupSpec.rayStartParams", "num-cpus", 0),
        ("spec.headGroupSpec.template.spec.containers.0.env.0", "value", 300),
        ("spec.workerGroupSpecs.0", "maxReplica", 8),
        (POD, "terminationGracePeriodSeconds", "120"),
        (f"{POD}.tolerations.0", "efect", "NoSchedule"),
        (f"{POD}.securityContext", "runAsNotRoot", True),
        (f"{POD}.containers.0", "imagePulPolicy", "Always"),
        (f"{POD}.containers.0.lifecycle.preStop.exec", "comand", []),
        (f"{POD}.containers.0.resources.limits", "memory", "24GB"),
    ],
)
def test_a_typo_is_found_however_deep(place: str, key: str, value: object) -> None:
    cluster = json.loads(json.dumps(manifest("cluster")))  # with nothing shared by anchors
    at(cluster, place)[key] = value
    assert len(problems(cluster)) == 1


def test_a_typo_in_the_network_policy_is_found() -> None:
    for place, key in (("spec", "ingres"), ("spec.ingress.1.ports.0", "porta")):
        policy = json.loads(json.dumps(manifest("network-policy")))
        at(policy, place)[key] = []
        assert len(problems(policy)) == 1


@pytest.mark.parametrize("job", JOBS)
def test_a_job_brings_the_same_cluster(job: str) -> None:
    assert manifest(job)["spec"]["rayClusterSpec"] == manifest("cluster")["spec"]


@pytest.mark.parametrize("job", JOBS)
def test_a_job_retries_and_cleans_up(job: str) -> None:
    spec = manifest(job)["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] and spec["ttlSecondsAfterFinished"] > 0


@pytest.mark.parametrize("job", JOBS)
def test_a_job_uses_every_gpu_and_stores_in_the_bucket(job: str, worker: dict[str, Any]) -> None:
    config = settings(job)
    assert config.pairs.output.startswith("s3://")
    crew = {"pairs": config.pairs.actors, "distill": config.distill.workers}[job]
    (container,) = worker["template"]["spec"]["containers"]
    assert crew.gpus == int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert crew.max == worker["maxReplicas"]


def test_the_student_is_made_from_the_pairs() -> None:
    config = settings("distill")
    assert config.distill.output.startswith("s3://")
    assert config.pairs.output == settings("pairs").pairs.output


def test_the_cluster_is_protected_and_of_the_pinned_ray() -> None:
    spec = manifest("cluster")["spec"]
    assert spec["rayVersion"] == PINS["ray"]
    assert spec["authOptions"] == {"mode": "token"}


def test_head_stays_and_runs_no_tasks() -> None:
    head = manifest("cluster")["spec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["template"]["spec"]["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}
    assert "tolerations" not in head["template"]["spec"]


def test_gpu_group_is_spot_and_shrinks_to_nothing(worker: dict[str, Any]) -> None:
    assert manifest("cluster")["spec"]["enableInTreeAutoscaling"] is True
    assert worker["replicas"] == worker["minReplicas"] == 0 < worker["maxReplicas"]
    assert at(worker, "template.spec.nodeSelector") == {"karpenter.sh/capacity-type": "spot"}


def test_no_pod_is_root_or_holds_a_key() -> None:
    spec = manifest("cluster")["spec"]
    account = manifest("service-account")["metadata"]["name"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["serviceAccountName"] == account
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in (*pod["containers"], spec["autoscalerOptions"]):
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert not re.search("KEY|SECRET|TOKEN|PASSWORD", json.dumps(container))


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector of Kubernetes takes such an object; those with `In` alone."""
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    terms = selector.get("matchExpressions", [])
    assert {term["operator"] for term in terms} <= {"In"}
    return wanted and all(labels.get(term["key"]) in term["values"] for term in terms)


def reaches(labels: dict[str, str], port: int, namespace: str = "ours") -> bool:
    """Whether the policy lets a pod of a namespace in at a port of the cluster's pods."""
    for rule in manifest("network-policy")["spec"]["ingress"]:
        open_ports = [each["port"] for each in rule.get("ports", [])]
        for peer in rule["from"]:
            near = namespace == "ours" or "namespaceSelector" in peer
            if near and selects(peer["podSelector"], labels) and port in (open_ports or [port]):
                return True
    return False


def test_the_pods_of_the_cluster_alone_reach_each_other() -> None:
    policy, spec = manifest("network-policy")["spec"], manifest("cluster")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    pods = [
        at(group, "template.metadata.labels")
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])
    ]
    submitters = [
        {"batch.kubernetes.io/job-name": manifest(job)["metadata"]["name"]} for job in JOBS
    ]
    operator = {"app.kubernetes.io/component": "kuberay-operator"}
    for port in (6379, 8265, 10001, 29500):
        assert all(selects(policy["podSelector"], pod) and reaches(pod, port) for pod in pods)
        for submitter in submitters:
            assert reaches(submitter, port) == (port == 8265)
        assert reaches(operator, port, "kuberay-system") == (port == 8265)
        for stranger in ({}, {"app": "other"}, {"batch.kubernetes.io/job-name": "other"}):
            assert not reaches(stranger, port)
        for elsewhere in (*pods, *submitters):
            assert not reaches(elsewhere, port, "theirs")


@pytest.mark.parametrize("accepted", [True, False])
def test_a_worker_drains_before_it_ends(
    worker: dict[str, Any], tmp_path: Path, accepted: bool
) -> None:
    ray, sleep = tmp_path / "ray", tmp_path / "sleep"
    for fake, code in ((ray, 0 if accepted else 1), (sleep, 0)):
        fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {fake}.asked\nexit {code}\n')
        fake.chmod(0o755)
    command = at(worker, "template.spec.containers.0.lifecycle.preStop.exec.command")
    subprocess.run(command, env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, timeout=20)

    name, *arguments = Path(f"{ray}.asked").read_text().splitlines()
    options = drain_node.make_context(name, arguments).params
    assert (name, options["reason"]) == ("drain-node", "DRAIN_NODE_REASON_PREEMPTION")
    assert options["node_id"] is None, "not the node it runs on"
    left, waited = options["deadline_remaining_seconds"], Path(f"{sleep}.asked")
    assert waited.read_text() == f"{left}\n" if accepted else not waited.exists()
    asking = int(re.search(r"timeout (\d+)", command[-1])[1])
    assert asking + left < at(worker, "template.spec.terminationGracePeriodSeconds")


def dockerfile() -> list[str]:
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text())
    return [line for line in text.replace("\\\n", " ").splitlines() if line]


def test_the_image_gets_every_file_it_copies() -> None:
    let_in = re.findall(r"(?m)^!(.+)$", (ROOT / ".dockerignore").read_text())
    copied = [
        source for line in dockerfile() if line.startswith("COPY ") for source in line.split()[1:-1]
    ]
    assert sorted(copied) == sorted(let_in)
    assert all((ROOT / source).exists() for source in copied)


def test_the_image_is_made_of_the_pinned_set_before_the_code() -> None:
    lines = dockerfile()
    install = next(i for i, line in enumerate(lines) if "-r pyproject.toml" in line)
    assert "-c constraints.txt" in lines[install]
    assert any(name.startswith("nvidia-") for name in PINS), "locked without CUDA's packages"
    assert install < lines.index("COPY pipeline pipeline")
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"uv==\S+", "\n".join(lines))[0] == re.search(r"uv==\S+", makefile)[0]
    assert re.search(r"CPU_WHEELS := (\S+)", makefile)[1] in lines[install]


def test_the_image_runs_as_the_user_of_the_pods() -> None:
    users = [line.split()[1] for line in dockerfile() if line.startswith("USER ")]
    pod = at(manifest("cluster"), "spec.headGroupSpec.template.spec.securityContext")
    assert users[-1:] == [str(pod["runAsUser"])] != ["0"]
    assert any(f"useradd --uid {users[-1]}" in line for line in dockerfile())
