"""What a group of workers asks whether it shall leave."""

from types import SimpleNamespace

import pytest

from pipeline.cluster import signals
from pipeline.cluster.signals import Signals, leaving
from pipeline.config import S3Config
from pipeline.data.lease import Lease
from pipeline.data.storage import Storage
from pipeline.utils.errors import UserError


@pytest.fixture
def storage(tmp_path, monkeypatch) -> Storage:
    """Of a run, asked about by its first worker."""
    monkeypatch.setattr(signals, "broadcast_from_rank_zero", lambda value: value)
    context = SimpleNamespace(get_world_rank=lambda: 0)
    monkeypatch.setattr(signals.ray.train, "get_context", lambda: context)
    monkeypatch.setattr(signals.ray.train, "get_preemption_info", lambda: None)
    return Storage(str(tmp_path), S3Config(), "distill.output")


def test_it_leaves_when_its_own_driver_was_told_to_stop_and_for_no_other_file(storage):
    with Lease(storage) as lease:
        ask = leaving(storage, lease.token)
        storage.put("stop.txt", b"")
        Signals(storage, "another driver's").stop()
        assert not ask()
        Signals(storage, lease.token).stop()
        assert ask()


def test_a_group_whose_driver_was_killed_ends_when_another_one_works(storage):
    with Lease(storage) as first:
        orphans = leaving(storage, first.token)
        assert not orphans()
        storage.delete("driver.json")
        assert not orphans()
        with Lease(storage) as second:
            assert not leaving(storage, second.token)()
            with pytest.raises(UserError, match=r"distill\.output"):
                orphans()
