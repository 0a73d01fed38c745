"""A complete run small enough for a test: analytic teacher, 4x4 images, 32 pairs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from pipeline.config import Config
from pipeline.data import s3
from tests.in_process import make_pairs


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Config]:
    """Makes a configuration with its pairs: ten steps of two lanes, `distill` as overridden."""

    def make(run: str = "run", **distill: Any) -> Config:
        config = Config.model_validate(
            {
                "run": str(tmp_path / run),
                "data": {"name": None},
                "network": {"channels": [8], "attention": [False], "norm_groups": 4},
                "teacher": {"kind": "gaussian", "gaussian": {"shape": [1, 4, 4], "classes": 3}},
                "pairs": {
                    "output": str(tmp_path / "pairs"),
                    "count": 32,
                    "shard_size": 16,
                    "steps": 3,
                },
                "distill": {
                    "steps": 10,
                    "regression_steps": 4,
                    "burn_in_steps": 2,
                    "batch_size": 8,
                    "regression": {"batch_size": 8},
                    "log_every": 2,
                    "sample_every": 5,
                    "checkpoint_every": 2,
                    **distill,
                },
            }
        )
        make_pairs(config)
        return config

    return make


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "some-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "some-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    with mock_aws():
        s3._connect.cache_clear()
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        yield client
    s3._connect.cache_clear()
