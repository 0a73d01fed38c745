"""Folders here and elsewhere: local paths, and URIs such as s3://bucket/prefix.

The only module that looks at "://".
"""

import os


def is_remote(uri: str) -> bool:
    """Whether it is a URI of another place, not a path on this machine."""
    return "://" in uri


def split(uri: str) -> tuple[str, str]:
    """Scheme and the rest: "s3" and "bucket/prefix"; a local path has the scheme ""."""
    return (uri.partition("://")[0], uri.partition("://")[2]) if is_remote(uri) else ("", uri)


def absolute(uri: str) -> str:
    """A local path from the root, for workers that start in folders of their own; URIs stay."""
    return uri if is_remote(uri) else os.path.abspath(uri)
