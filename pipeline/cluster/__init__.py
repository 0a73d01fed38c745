"""The only room that knows Ray."""

import os

_ONE_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"

# Ray asks this as it is imported. With 0, as on macOS, a head that it starts in this process stays
# on loopback, and 127.0.0.1 of a head that it joins is not made this machine's network address.
if _ONE_MACHINE not in os.environ:
    os.environ[_ONE_MACHINE] = "0"
    import ray  # noqa: F401

    del os.environ[_ONE_MACHINE]  # `ray start` of a child may have other nodes to join
