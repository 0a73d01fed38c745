"""A real S3 server on this machine: Ceph's radosgw, with one monitor and one disk in memory.

Its programs are Debian's packages ceph-mon, ceph-osd and radosgw.
"""

import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

KEY, SECRET = "dmd-test-key", "dmd-test-secret"
_LIBRARIES = Path("/usr/lib/x86_64-linux-gnu")
_CONFIG = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}
auth cluster required = none
auth service required = none
auth client required = none
ms mon cluster mode = crc
ms mon service mode = crc
ms mon client mode = crc
ms bind ipv4 = true
public addr = 127.0.0.1
mon allow pool size one = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 2147483648
osd class dir = {libraries}/rados-classes
erasure code dir = {libraries}/ceph/erasure-code
plugin dir = {libraries}/ceph
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
pid file =
mon data = {folder}/mon
osd data = {folder}/osd
osd journal = {folder}/osd/journal
rgw data = {folder}
keyring = {folder}/keyring
rgw frontends = beast endpoint=127.0.0.1:{port}
"""


@contextmanager
def radosgw(folder: Path) -> Iterator[str]:
    """Start the server with its files under `folder`; gives its URL."""
    missing = [name for name in ("ceph-mon", "ceph-osd", "radosgw") if not shutil.which(name)]
    if missing:
        raise RuntimeError(f"no {', '.join(missing)}: apt-get install ceph-mon ceph-osd radosgw")
    folder.mkdir()
    port, mon_port = _free_port(), _free_port()
    fsid, config = str(uuid.uuid4()), folder / "ceph.conf"
    config.write_text(
        _CONFIG.format(fsid=fsid, folder=folder, port=port, mon_port=mon_port, libraries=_LIBRARIES)
    )

    def call(*command: str) -> None:
        done = subprocess.run(
            [*command, "-c", str(config)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr[-2000:]}"

    with ExitStack() as stack:

        def start(*command: str) -> None:
            log = stack.enter_context((folder / f"{command[0]}.out").open("wb"))
            process = subprocess.Popen(
                [*command, "-f", "-c", str(config)], stdout=log, stderr=subprocess.STDOUT
            )
            stack.callback(process.wait)
            stack.callback(process.kill)

        keyring = str(folder / "keyring")
        call("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.")
        address, monitors = f"v2:127.0.0.1:{mon_port}", str(folder / "monmap")
        call("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[{address}]", monitors)
        call("ceph-mon", "--mkfs", "-i", "a", "--monmap", monitors, "--keyring", keyring)
        start("ceph-mon", "-i", "a")
        disk = str(uuid.uuid4())
        call("ceph", "--connect-timeout", "60", "osd", "new", disk, "0")
        (folder / "osd").mkdir()
        call("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", disk)
        start("ceph-osd", "-i", "0")
        start("radosgw", "-n", "client.radosgw")
        _await(port)
        user = ("--uid", "dmd", "--display-name", "dmd")
        keys = ("--access-key", KEY, "--secret-key", SECRET)
        call("radosgw-admin", "user", "create", *user, *keys)
        yield f"http://127.0.0.1:{port}"


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def _await(port: int, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError(f"nothing listens on port {port} after {seconds:g} seconds")
