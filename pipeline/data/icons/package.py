"""The npm package `@iconify/json`: sets of icons as SVG, each with its author and licence."""

import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.utils import scratch
from pipeline.utils.errors import UserError
from pipeline.utils.files import cache_folder

PACKAGE = "@iconify/json@2.2.535"
STYLES = {
    "noto": "noto",
    "noto old": "noto-v1",
    "fluent": "fluent-emoji",
    "fluent flat": "fluent-emoji-flat",
    "twemoji": "twemoji",
    "emojione": "emojione",
}
"""A style's name in captions -> the set that is drawn in it; all may be used and changed freely."""
_LICENCES = {"Apache-2.0", "MIT", "CC-BY-4.0"}
_COLLECTIONS = "collections.json"
_WAY_OUT = (
    f"install npm, or fetch {PACKAGE} elsewhere (npm pack {PACKAGE}) and name the .tgz in "
    "icons.package"
)


@dataclass(frozen=True)
class IconSet:
    """Icons in one style.

    Attributes:
        name: Of the set in the package.
        licence: As SPDX names it.
        author: Who drew them.
        url: Where they come from.
        bodies: Name -> the SVG of its inside.
        size: Width and height of each, in the SVG's units.
    """

    name: str
    licence: str
    author: str
    url: str
    bodies: Mapping[str, str]
    size: tuple[int, int]

    def svg(self, name: str) -> str:
        """The drawing of a name as a file."""
        width, height = self.size
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        head += ' xmlns:xlink="http://www.w3.org/1999/xlink">'
        return f"{head}{self.bodies[name]}</svg>"


def open_package(file: str | None) -> dict[str, IconSet]:
    """The sets of all `STYLES`, from the package.

    Args:
        file: The package as npm packs it (.tgz); None to have npm fetch it, once, into the cache.

    Raises:
        UserError: If npm is missing or refuses, or the file is no such package.
    """
    path = Path(file) if file else _fetched()
    try:
        with tarfile.open(path) as package:
            about = _read(package, "package.json")
            if (found := f"{about['name']}@{about['version']}") != PACKAGE:
                raise ValueError(f"it is {found}")
            collections = _read(package, _COLLECTIONS)
            return {
                style: _icon_set(name, _read(package, f"json/{name}.json"), collections[name])
                for style, name in STYLES.items()
            }
    except (OSError, tarfile.TarError, EOFError, KeyError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"icons.package: {path} is no {PACKAGE} ({reason}); {_WAY_OUT}") from error


def _fetched() -> Path:
    """The package in the cache, which npm fetches unless it is there."""
    folder = cache_folder()
    path = folder / f"{PACKAGE.strip('@').replace('/', '-').replace('@', '-')}.tgz"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"), scratch.folder_beside(path) as fresh:
            if not path.is_file():
                print(f"icons    npm fetches {PACKAGE} (100 MB, once)", flush=True)
                _npm("pack", PACKAGE, "--silent", "--pack-destination", str(fresh))
                shutil.move(next(fresh.glob("*.tgz")), path)
    except OSError as error:
        raise UserError(f"icons.package: cannot write {path}: {error.strerror}") from error
    return path


def _npm(*arguments: str) -> None:
    try:
        subprocess.run(["npm", *arguments], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise UserError(f"icons.package: null needs npm, which is not here; {_WAY_OUT}") from error
    except subprocess.CalledProcessError as error:
        reason = " ".join(error.stderr.split())[:200] or f"exit code {error.returncode}"
        raise UserError(f"icons.package: npm cannot fetch it ({reason}); {_WAY_OUT}") from error


def _read(package: tarfile.TarFile, name: str) -> Any:
    file = package.extractfile(f"package/{name}")
    if file is None:
        raise KeyError(name)
    with file:
        return json.load(file)


def _icon_set(name: str, content: Any, about: Any) -> IconSet:
    licence = about["license"]["spdx"]
    if licence not in _LICENCES:
        raise ValueError(f"{name} has another licence now, {licence}")
    bodies = {icon: str(each["body"]) for icon, each in content["icons"].items()}
    for alias, each in content.get("aliases", {}).items():
        if set(each) == {"parent"} and each["parent"] in bodies:
            bodies[alias] = bodies[each["parent"]]
    author = about["author"]
    size = int(content.get("width", 16)), int(content.get("height", 16))
    return IconSet(name, licence, author["name"], author["url"], bodies, size)
