"""Folders here and elsewhere: local paths, and URIs such as s3://bucket/prefix.

The only module that looks at "://".
"""

import os
import re

_USER = re.compile(
    r"(?<=http://)\S*@|(?<=https://)\S*@"
    r"|(?<=://)(?:[^/?#\s@]*|[^/?#\s@:]*:(?!\d*(?:[/?#]|$))\S*)@",
    re.IGNORECASE,
)
"""What stands before a host: a name and a password, whose "/" people leave as it is."""
_KEY = re.compile(
    r"([?&;#](?:x-(?:amz|goog)-(?:signature|credential|security-token)|awsaccesskeyid"
    r"|googleaccessid|signature|sig|(?:\w*_)?(?:token|secret|password|key))=)[^&;#\s\"']+",
    re.IGNORECASE,
)
"""What signs or opens a request, in a query."""


def masked(text: str) -> str:
    """The text with *** in place of the credentials in its URIs."""
    return _KEY.sub(r"\1***", _USER.sub("***@", text))


def is_remote(uri: str) -> bool:
    """Whether it is a URI of another place, not a path on this machine."""
    return "://" in uri


def split(uri: str) -> tuple[str, str]:
    """Scheme and the rest: "s3" and "bucket/prefix"; a local path has the scheme ""."""
    return (uri.partition("://")[0], uri.partition("://")[2]) if is_remote(uri) else ("", uri)


def absolute(uri: str) -> str:
    """A local path from the root, for workers that start in folders of their own; URIs stay."""
    return uri if is_remote(uri) else os.path.abspath(os.path.expanduser(uri))
