"""A cloud for Ray's autoscaler that gives one node at a time, and no more than a file says."""

import os
from pathlib import Path

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider

LIMIT = "DMD_TEST_NODES"
"""Setting of the environment: the file with the number of worker nodes there are now."""


class ScarceProvider(FakeMultiNodeProvider):
    """Nodes on this machine."""

    def create_node_with_resources_and_labels(self, node_config, tags, count, resources, labels):
        if len(self._nodes) > int(Path(os.environ[LIMIT]).read_text()):
            raise RuntimeError("InsufficientInstanceCapacity")
        super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)
