"""Draw icons with captions into folders of images that everything here reads like anybody's."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

from pipeline.config import Config, IconsConfig
from pipeline.data.icons.drawing import LOOKS, Look, caption, draw, looks
from pipeline.data.icons.names import CLEAR
from pipeline.data.icons.package import PACKAGE, IconSet, open_package
from pipeline.models.export.save import new_folder, read_provenance
from pipeline.utils.errors import UserError
from pipeline.utils.files import check_writable
from pipeline.utils.progress import Progress
from pipeline.utils.uris import is_remote

TRAIN, HELD_OUT = "train", "held-out"
"""The folder of images to learn from, and that of combinations that no network sees."""
_HELD_OUT_LOOKS = 3
"""Of every name, out of `LOOKS`."""
COLUMNS = ("file_name", "text", "name", "style", "background", "size", "mirrored")
_ORIGIN = ("set", "licence", "author", "url")


def make_icons(config: Config) -> None:
    """Draw the configured icons in all styles and looks, once.

    Writes two folders of PNG files, `train` and `held-out`, each with a `metadata.csv`: the
    caption, what it says, and who drew the icon under which licence.

    Raises:
        UserError: If the package cannot be had or drawn, or the folder holds something else.
    """
    icons = config.icons
    if is_remote(icons.output):
        raise UserError(f"icons.output: {icons.output} is no local folder; images are drawn here")
    provenance: dict[str, object] = {"package": PACKAGE, "names": icons.names, "size": icons.size}
    if (found := read_provenance(icons.output)) is not None:
        if found != provenance:
            raise UserError(
                f"icons.output: {icons.output} holds other icons (see its provenance.json); choose "
                "another folder or remove it"
            )
        print(f"icons    {icons.output} is drawn already")
        return
    check_writable(Path(icons.output).parent, "icons.output")
    sets = open_package(icons.package)
    names = _names(sets, icons)
    with new_folder(icons.output, provenance) as folder:
        count = _draw_all(sets, names, icons.size, folder)
    print(f"icons    {count} images of {len(names)} names in {icons.output}")


def held_out(name: str) -> frozenset[Look]:
    """The looks of a name that are kept out of all training; never the plain one."""
    return frozenset(Random(name).sample(LOOKS[1:], _HELD_OUT_LOOKS))


def _names(sets: Mapping[str, IconSet], icons: IconsConfig) -> list[str]:
    everywhere = set.intersection(*(set(each.bodies) for each in sets.values()))
    clear = [name for name in CLEAR if name in everywhere]
    if icons.names is None:
        return clear + sorted(everywhere.difference(clear))
    if icons.names > len(everywhere):
        raise UserError(
            f"icons.names: {icons.names}, and {len(everywhere)} are drawn in every style; give "
            "fewer, or null for all"
        )
    return (clear + sorted(everywhere.difference(clear)))[: icons.names]


def _draw_all(sets: Mapping[str, IconSet], names: list[str], side: int, folder: Path) -> int:
    parts = {TRAIN: list[dict[str, Any]](), HELD_OUT: list[dict[str, Any]]()}
    for part in parts:
        (folder / part).mkdir()
    with Progress(len(names), "icons", "names") as bar:
        for name in names:
            for style, icons in sets.items():
                for part, row in _draw_one(icons, name, style, side, folder):
                    parts[part].append(row)
            bar.update(1)
    for part, rows in parts.items():
        with (folder / part / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, [*COLUMNS, *_ORIGIN])
            table.writeheader()
            table.writerows(rows)
    return sum(map(len, parts.values()))


def _draw_one(
    icons: IconSet, name: str, style: str, side: int, folder: Path
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Save an icon in all looks of one style; yields each one's part and row of the table."""
    kept_out, wanted = held_out(name), looks(icons, name)
    origin = dict(zip(_ORIGIN, (icons.name, icons.licence, icons.author, icons.url), strict=True))
    for look, image in zip(wanted, draw(icons, name, side, wanted), strict=True):
        part = HELD_OUT if look in kept_out else TRAIN
        mirrored = "mirrored" if look.mirrored else "not mirrored"
        words = (name, icons.name, look.background, look.size, *["mirrored"] * look.mirrored)
        file = f"{'-'.join(words)}.png"
        image.save(folder / part / file)
        said = (name.replace("-", " "), style, look.background, look.size, mirrored)
        yield (
            part,
            dict(zip(COLUMNS, (file, caption(name, style, look), *said), strict=True)) | origin,
        )
