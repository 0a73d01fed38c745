"""The cluster files are ones that Ray's launcher, EC2 and a shell would take, as told offline."""

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
AWS, GCP = FILES = ("cluster.yaml", "deploy/gcp.yaml")


def read(file: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / file).read_text())


def groups(file: str) -> dict[str, Any]:
    """The node types of the workers."""
    cluster = read(file)
    return {
        name: group
        for name, group in cluster["available_node_types"].items()
        if name != cluster["head_node_type"]
    }


def commands(file: str) -> dict[str, list[str]]:
    """All lists of shell commands, those that Ray fills in included."""
    cluster = prepare_config(read(file))
    return {name: found for name, found in cluster.items() if name.endswith("_commands")}


@pytest.mark.parametrize("file", FILES)
def test_ray_accepts_it(file: str) -> None:
    validate_config(prepare_config(read(file)))


def test_ray_finds_a_misspelt_setting_of_a_group() -> None:
    cluster = read(AWS)
    cluster["available_node_types"]["spot-l4"]["priorty"] = 1
    with pytest.raises(jsonschema.ValidationError, match="priorty"):
        validate_config(prepare_config(cluster))


@pytest.fixture(scope="module")
def ec2() -> Any:
    return botocore.session.get_session().get_service_model("ec2")


def complaints(ec2: Any, node: dict[str, Any]) -> str:
    """What EC2's own description of RunInstances has against a node's configuration."""
    shape = ec2.operation_model("RunInstances").input_shape
    report = ParamValidator().validate({**node, "MinCount": 1, "MaxCount": 1}, shape)
    return report.generate_report()


def misspelt(value: Any) -> Iterator[tuple[str, Any]]:
    """Copies of a configuration, in each of them one key at any depth with a letter too many."""
    if isinstance(value, list):
        for i, each in enumerate(value):
            for key, wrong in misspelt(each):
                yield key, [*value[:i], wrong, *value[i + 1 :]]
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key, {f"{k}x" if k == key else k: v for k, v in value.items()}
            for inner, wrong in misspelt(each):
                yield inner, {**value, key: wrong}


def test_ec2_knows_every_field_of_every_node(ec2: Any) -> None:
    for group in read(AWS)["available_node_types"].values():
        assert complaints(ec2, group["node_config"]) == ""


def test_a_misspelt_field_is_found_at_any_depth(ec2: Any) -> None:
    node = groups(AWS)["spot-l4"]["node_config"]
    keys = [key for key, _ in misspelt(node)]
    assert {"InstanceType", "Ebs", "VolumeSize", "MarketType", "Name"} <= set(keys)
    for key, wrong in misspelt(node):
        assert f'"{key}x"' in complaints(ec2, wrong)
    wrong = copy.deepcopy(node)
    wrong["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] = "200"
    assert "VolumeSize" in complaints(ec2, wrong)


@pytest.mark.parametrize("file", FILES)
def test_head_stays_and_runs_no_tasks(file: str) -> None:
    cluster = read(file)
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert not is_spot(head)
    assert head["resources"] == {"CPU": 0, "GPU": 0}


def is_spot(group: dict[str, Any]) -> bool:
    node = group["node_config"]
    return (
        node.get("InstanceMarketOptions") == {"MarketType": "spot"}
        or node.get("scheduling", {}).get("provisioningModel") == "SPOT"
    )


@pytest.mark.parametrize("file", FILES)
def test_spot_groups_come_first_and_every_group_shrinks_to_nothing(file: str) -> None:
    found = groups(file)
    spot = {name for name in found if is_spot(found[name])}
    assert spot == {name for name in found if name.startswith("spot-")} != set(found)
    assert min(found[name]["priority"] for name in spot) > max(
        found[name]["priority"] for name in found.keys() - spot
    )
    for group in found.values():
        assert group["min_workers"] == 0 < group["max_workers"] <= read(file)["max_workers"]
        assert group["resources"]["GPU"] == 1


def test_rights_come_from_the_machines_profile() -> None:
    for name, group in read(AWS)["available_node_types"].items():
        profile = "ray-dmd-head" if name == "head" else "ray-dmd-worker"
        assert group["node_config"]["IamInstanceProfile"] == {"Name": profile}
    assert "aws_credentials" not in read(AWS)["provider"]
    assert not any("aws" in local for local in read(AWS)["file_mounts"].values())


@pytest.mark.parametrize(
    ("file", "script", "node"),
    [
        (AWS, "deploy/spot_watcher.py", "worker"),
        (AWS, "deploy/spot_fallback.py", "head"),
        (GCP, "deploy/spot_fallback.py", "head"),
    ],
)
def test_scripts_start_after_ray(file: str, script: str, node: str) -> None:
    place = next(there for there, here in read(file)["file_mounts"].items() if here == script)
    started = read(file)[f"{node}_start_ray_commands"][-1]
    assert started.index("ray start") < started.index(place.replace("/home/ubuntu", "~"))


@pytest.mark.parametrize("file", FILES)
def test_set_up_takes_the_pinned_set(file: str) -> None:
    cluster = read(file)
    assert {"pyproject.toml", "constraints.txt"} <= set(cluster["file_mounts"].values())
    for local in cluster["file_mounts"].values():
        assert local.startswith("~") or (ROOT / local).is_file()
    *_, uv, _, install = cluster["setup_commands"]
    pinned = next(line for line in (ROOT / "Makefile").read_text().splitlines() if "uv==" in line)
    assert f"uv/{pinned.split('==')[1]}/" in uv
    for command in (install, *cluster["head_setup_commands"]):
        assert "-c constraints.txt" in command
    assert commands(file)["head_setup_commands"] == (
        cluster["setup_commands"] + cluster["head_setup_commands"]
    )


def shellcheck(command: str) -> str:
    """What shellcheck has against a command, notes on style included."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    program = shutil.which("shellcheck", path=path)
    assert program, "shellcheck comes with the extra `dev`"
    done = subprocess.run(
        [program, "--shell=bash", "--norc", "-"], input=command, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


@pytest.mark.parametrize("file", FILES)
def test_every_command_passes_shellcheck(file: str) -> None:
    found = {command for each in commands(file).values() for command in each}
    assert len(found) > 5
    for command in found:
        assert shellcheck(command) == "", command


def test_shellcheck_finds_a_careless_command() -> None:
    assert "SC2164" in shellcheck("cd ~/ray-dmd; ls")
    assert "SC2086" in shellcheck("ray start --address=$RAY_HEAD_IP:6379")
