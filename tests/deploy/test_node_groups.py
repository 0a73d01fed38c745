"""Which machines Ray's own autoscaler and AWS provider take for cluster.yaml; EC2 is moto's."""

import json
import time
from pathlib import Path
from typing import Any

import boto3
import botocore.client
import pytest
import yaml
from moto import mock_aws
from moto.ec2.models.instance_types import INSTANCE_TYPES
from ray.autoscaler._private.aws import node_provider as aws
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig, FileConfigReader
from ray.autoscaler.v2.instance_manager.instance_manager import InstanceManager
from ray.autoscaler.v2.instance_manager.instance_storage import InstanceStorage
from ray.autoscaler.v2.instance_manager.node_provider import CloudInstance, LaunchNodeError
from ray.autoscaler.v2.instance_manager.reconciler import Reconciler
from ray.autoscaler.v2.instance_manager.storage import InMemoryStorage
from ray.autoscaler.v2.instance_manager.subscribers.cloud_instance_updater import (
    CloudInstanceUpdater,
)
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import (
    CloudResourceMonitor,
)
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.schema import Stats
from ray.autoscaler.v2.utils import ClusterStatusParser, ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import (
    ClusterResourceState,
    GetClusterStatusReply,
    NodeState,
    NodeStatus,
)
from ray.core.generated.instance_manager_pb2 import NodeKind

from deploy import spot_fallback

ROOT = Path(__file__).parents[2]
ORDER = ["spot-l4", "spot-a10g", "on-demand-l4"]
HEAD = CloudInstance("i-0", "head", is_running=True, node_kind=NodeKind.HEAD)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """cluster.yaml with what `ray up` fills in from EC2's table of machines."""
    monkeypatch.setattr(aws, "list_ec2_instances", lambda *_: list(INSTANCE_TYPES.values()))
    filled = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    return aws.AWSNodeProvider.fillout_available_node_types_resources(filled)


def gpu_demand(count: int) -> list[Any]:
    return ResourceRequestUtil.group_by_count(
        [ResourceRequestUtil.make({"CPU": 1, "GPU": 1})] * count
    )


def chosen(cluster: dict[str, Any], gpus: int) -> dict[str, int]:
    """The nodes that Ray's scheduler would start for tasks of one GPU."""
    config = AutoscalingConfig(cluster, skip_content_hash=True)
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=config.get_node_type_configs(),
        max_num_nodes=cluster["max_workers"],  # the head is not among the nodes here
        resource_requests=gpu_demand(gpus),
    )
    launches = ResourceDemandScheduler(None).schedule(request).to_launch
    return {launch.instance_type: launch.count for launch in launches}


def test_machines_are_what_their_groups_say(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    shapes = []
    for name in ORDER:
        machine = INSTANCE_TYPES[types[name]["node_config"]["InstanceType"]]
        (gpu,) = machine["GpuInfo"]["Gpus"]
        assert gpu["Name"].lower() == name.split("-")[-1]
        found = types[name]["resources"]
        assert found["CPU"] == machine["VCpuInfo"]["DefaultVCpus"]
        assert found["GPU"] == gpu["Count"]
        shapes.append({k: v for k, v in found.items() if not k.startswith("accelerator_type:")})
    assert shapes[0] == shapes[1] == shapes[2]
    assert "memory" in shapes[0]


def test_a_group_without_room_is_followed_by_the_next(cluster: dict[str, Any]) -> None:
    for name in ORDER:
        assert chosen(cluster, gpus=1) == {name: 1}
        cluster["available_node_types"][name]["max_workers"] = 0
    assert chosen(cluster, gpus=1) == {}


def test_groups_fill_up_in_their_order_to_the_clusters_most(cluster: dict[str, Any]) -> None:
    assert chosen(cluster, gpus=20) == {"spot-l4": 8}
    for name in ORDER:
        cluster["available_node_types"][name]["max_workers"] = 3
    assert chosen(cluster, gpus=20) == {"spot-l4": 3, "spot-a10g": 3, "on-demand-l4": 2}


class Refusing:
    """A cloud that never has a machine."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.errors: list[LaunchNodeError] = []

    def launch(self, shape: dict[str, int], request_id: str) -> None:
        for name, count in shape.items():
            self.asked.append(name)
            self.errors.append(LaunchNodeError(name, count, request_id, time.time_ns()))


def asked(file: Path, helped: bool, rounds: int = 12) -> list[str]:
    """The groups that Ray's autoscaler asks of such a cloud, round by round, for one GPU."""
    cloud, monitor = Refusing(), CloudResourceMonitor()
    nodes = InstanceManager(
        InstanceStorage("test", InMemoryStorage()), [CloudInstanceUpdater(cloud), monitor]
    )
    head = NodeState(
        node_id=b"0" * 28,
        instance_id=HEAD.cloud_instance_id,
        ray_node_type_name="head",
        status=NodeStatus.RUNNING,
        total_resources={"node:__internal_head__": 1},
    )
    for version in range(rounds):
        errors, cloud.errors = cloud.errors, []
        state = Reconciler.reconcile(
            instance_manager=nodes,
            scheduler=ResourceDemandScheduler(None),
            cloud_provider=cloud,
            cloud_resource_monitor=monitor,
            ray_cluster_resource_state=ClusterResourceState(
                cluster_resource_state_version=version,
                node_states=[head],
                pending_resource_requests=gpu_demand(1),
            ),
            non_terminated_cloud_instances={HEAD.cloud_instance_id: HEAD},
            autoscaling_config=FileConfigReader(str(file)).get_cached_autoscaling_config(),
            cloud_provider_errors=errors,
        )
        if helped:
            reply = GetClusterStatusReply(autoscaling_state=state)
            status = ClusterStatusParser.from_get_cluster_status_reply(reply, stats=Stats())
            assert spot_fallback.refused(status, time.time() + 601) == set()
            spot_fallback.pass_over(spot_fallback.refused(status, time.time()), file)
    return cloud.asked


def test_a_refused_group_is_passed_over_for_a_while(
    cluster: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "ray_bootstrap_config.yaml"
    file.write_text(json.dumps(cluster))
    assert asked(file, helped=False) == ["spot-l4"] * 12  # else spot_fallback.py may go
    found = asked(file, helped=True)
    assert list(dict.fromkeys(found)) == ORDER
    assert found[-1] == "spot-l4"  # all were refused: from the start again
    spot_fallback.pass_over(set(), file)
    after = json.loads(file.read_text())["available_node_types"]
    assert [after[name]["priority"] for name in ORDER] == [3, 2, 1]


def test_rays_provider_starts_every_node_with_the_rights_it_is_given(
    cluster: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # for the key that Ray makes
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "some-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
    monkeypatch.setattr(aws, "TAG_BATCH_DELAY", 0)
    called: set[str] = set()
    call = botocore.client.BaseClient._make_api_call

    def recorded(self: Any, operation: str, parameters: Any) -> Any:
        called.add(f"{self.meta.service_model.service_name}:{operation}")
        return call(self, operation, parameters)

    with mock_aws():
        make_profiles()
        full = aws.AWSNodeProvider.bootstrap_config(cluster)
        check_security_group(full)
        provider = aws.AWSNodeProvider(full["provider"], full["cluster_name"])
        monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", recorded)
        for name, group in full["available_node_types"].items():
            tags = {"ray-node-type": "worker", "ray-user-node-type": name}
            (node,) = provider.create_node(group["node_config"], tags, 1).values()
            assert node.instance_type == group["node_config"]["InstanceType"]
            assert node.instance_lifecycle == ("spot" if name.startswith("spot-") else None)
            profile = "ray-dmd-head" if name == "head" else "ray-dmd-worker"
            assert node.iam_instance_profile["Arn"].endswith(f"/{profile}")
        started = provider.non_terminated_nodes({})
        provider.set_node_tags(started[0], {"ray-node-status": "up-to-date"})
        provider.terminate_nodes(started)
    allowed = json.loads((ROOT / "deploy" / "aws-head.json").read_text())["Statement"][0]
    assert called <= set(allowed["Action"])
    assert "ec2:RunInstances" in called


def check_security_group(full: dict[str, Any]) -> None:
    """All nodes are in one group, which lets in ssh and its own nodes alone."""
    groups = [
        each["node_config"]["SecurityGroupIds"] for each in full["available_node_types"].values()
    ]
    (ours,) = groups[0]
    assert all(group == [ours] for group in groups)
    ec2 = boto3.client("ec2", region_name=full["provider"]["region"])
    (found,) = ec2.describe_security_groups(GroupIds=[ours])["SecurityGroups"]
    world = [rule for rule in found["IpPermissions"] if rule["IpRanges"] or rule["Ipv6Ranges"]]
    assert [(rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) for rule in world] == [
        ("tcp", 22, 22)
    ]
    (among,) = [rule for rule in found["IpPermissions"] if rule not in world]
    assert [pair["GroupId"] for pair in among["UserIdGroupPairs"]] == [ours]
    assert among["IpProtocol"] == "-1" and not among["PrefixListIds"]


def make_profiles() -> None:
    """The roles of docs/aws.md; moto refuses a policy that IAM would not parse."""
    iam = boto3.client("iam", region_name="us-east-1")
    for name in ("ray-dmd-head", "ray-dmd-worker"):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument="{}")
        iam.create_instance_profile(InstanceProfileName=name)
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
        for policy in ("bucket", "head"):
            text = (ROOT / "deploy" / f"aws-{policy}.json").read_text()
            iam.put_role_policy(RoleName=name, PolicyName=policy, PolicyDocument=text)
