"""Paths and URIs are told apart."""

import os

import pytest

from pipeline.utils.uris import absolute, is_remote, split


@pytest.mark.parametrize("path", ["runs/digits", "/runs/digits", "s3:/bucket", "."])
def test_a_local_path_is_made_absolute(path):
    assert not is_remote(path)
    assert split(path) == ("", path)
    assert absolute(path) == os.path.abspath(path)


def test_a_home_is_that_of_the_user(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert absolute("~/runs") == "/home/someone/runs"


@pytest.mark.parametrize("uri", ["s3://bucket/some/run", "hf://owner/name@main", "gs://bucket"])
def test_a_uri_stays(uri):
    assert is_remote(uri)
    scheme, place = split(uri)
    assert f"{scheme}://{place}" == uri
    assert absolute(uri) == uri
