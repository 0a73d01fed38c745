"""cluster.yaml is one that Ray's launcher and EC2 would take, as far as can be told offline."""

from pathlib import Path
from typing import Any

import botocore.session
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[1]


@pytest.fixture
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


@pytest.mark.parametrize("group", ["head", "gpu"])
def test_ec2_knows_every_field_of_a_node(cluster: dict[str, Any], group: str) -> None:
    node = cluster["available_node_types"][group]["node_config"]
    ec2 = botocore.session.get_session().get_service_model("ec2")
    shape = ec2.operation_model("RunInstances").input_shape
    report = ParamValidator().validate({**node, "MinCount": 1, "MaxCount": 1}, shape)
    assert not report.has_errors(), report.generate_report()


def test_head_stays_and_runs_no_tasks(cluster: dict[str, Any]) -> None:
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"] == {"CPU": 0, "GPU": 0}


def test_gpu_group_is_spot_and_shrinks_to_nothing(cluster: dict[str, Any]) -> None:
    gpu = cluster["available_node_types"]["gpu"]
    assert gpu["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert gpu["min_workers"] == 0 < gpu["max_workers"] <= cluster["max_workers"]


def test_workers_watch_for_spot_notices(cluster: dict[str, Any]) -> None:
    place = next(k for k, v in cluster["file_mounts"].items() if v == "deploy/spot_watcher.py")
    assert (ROOT / "deploy" / "spot_watcher.py").is_file()
    started = cluster["worker_start_ray_commands"][-1]
    assert place.replace("/home/ubuntu", "$HOME") in started
    assert started.index("ray start") < started.index("spot_watcher")


def test_set_up_takes_the_pinned_set(cluster: dict[str, Any]) -> None:
    mounted = cluster["file_mounts"].values()
    assert {"pyproject.toml", "constraints.txt"} <= set(mounted)
    assert prepare_config(cluster)["head_setup_commands"] == cluster["setup_commands"]
    assert "-c constraints.txt" in cluster["setup_commands"][-1]
    uv = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "uv==" in line)
    assert f"uv/{uv.split('==')[1]}/" in cluster["setup_commands"][0]
