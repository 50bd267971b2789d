"""Which package may import which: the one rule of the architecture. `python docs/rooms.py` draws the picture of it.

`tests/project/test_rooms.py` compares this table with the imports in the code, and the picture with the table.
"""

from __future__ import annotations

from pathlib import Path

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "attributes": (),
    "tables": (),
    "modules": ("attributes",),
    "datasets": ("attributes", "tables"),
    "reports": ("attributes", "tables"),
    "detection": ("attributes", "modules"),
    "evaluation": ("attributes", "datasets", "modules"),
    "presets": ("attributes", "datasets", "modules"),
    "baselines": ("attributes", "evaluation", "modules"),
    "deployment": ("attributes", "datasets", "evaluation", "modules", "tables"),
    "explanation": ("attributes", "evaluation", "modules"),
    "pages": ("attributes", "datasets", "evaluation", "explanation", "modules", "reports", "tables"),
    "training": ("attributes", "datasets", "deployment", "evaluation", "modules", "pages", "presets", "tables"),
    "sklearn": ("attributes", "datasets", "evaluation", "modules", "presets", "training"),
    "commands": (
        "attributes",
        "baselines",
        "datasets",
        "deployment",
        "evaluation",
        "modules",
        "pages",
        "reports",
        "tables",
        "training",
    ),
}
PICTURE = Path(__file__).parent / "architecture.svg"

# Name: column and floor in the picture, and the line below the name. Every package stands above those that it imports.
_PLACES: dict[str, tuple[float, int, str]] = {
    "sklearn": (1.1, 6, "the estimator"),
    "commands": (2.4, 6, "the command line"),
    "baselines": (0.2, 4, "what we compare with"),
    "training": (1.5, 5, "fit, calibrate, runs"),
    "pages": (2.9, 4, "cases and runs as HTML"),
    "explanation": (3.3, 3, "contributions, questions"),
    "reports": (3.5, 1, "report text -> table"),
    "deployment": (2.3, 3, "predict, export, card, hub"),
    "detection": (0.0, 2, "fusion in detectors"),
    "presets": (1.06, 2, "whole models by name"),
    "evaluation": (2.1, 2, "predictions, metrics, plots"),
    "modules": (0.5, 1, "the paper as nn.Modules"),
    "datasets": (2.1, 1, "cases from files"),
    "attributes": (1.3, 0, "table cells <-> codes"),
    "tables": (2.8, 0, "files, journals, clusters"),
}
_WIDTH, _HEIGHT, _COLUMN, _FLOOR = 196, 52, 212, 96


def arrows() -> list[tuple[str, str]]:
    """The imports that do not follow from others: a picture of all of them could not be read."""

    def reachable(name: str) -> set[str]:
        return {name}.union(*(reachable(other) for other in MAY_IMPORT[name]))

    return [
        (name, below)
        for name, direct in MAY_IMPORT.items()
        for below in direct
        if not any(below in reachable(other) for other in direct if other != below)
    ]


def draw() -> str:
    """The picture as SVG."""
    top = max(floor for _, floor, _ in _PLACES.values())
    place = {name: (8 + int(c * _COLUMN), 8 + (top - floor) * _FLOOR) for name, (c, floor, _) in _PLACES.items()}
    width, height = (
        max(sizes) + 8 for sizes in zip(*((x + _WIDTH, y + _HEIGHT) for x, y in place.values()), strict=True)
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" font-family="sans-serif">',
        "<title>The packages of alignedfusion; arrows point to what a package imports</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#78909c"/></marker></defs>',
    ]
    for above, below in arrows():
        (x, y), (u, v) = place[above], place[below]
        start, end = (x + _WIDTH // 2, y + _HEIGHT), (u + _WIDTH // 2, v - 2)
        bend = (start[1] + end[1]) // 2
        lines.append(
            f'<path d="M{start[0]} {start[1]}C{start[0]} {bend} {end[0]} {bend} {end[0]} {end[1]}" fill="none" '
            f'stroke="#78909c" stroke-width="1.4" marker-end="url(#tip)"/>'
        )
    for name, (x, y) in place.items():
        fill = "#ffccbc" if name == "modules" else "#eceff1"
        lines += [
            f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6" fill="{fill}" stroke="#546e7a"/>',
            f'<text x="{x + _WIDTH // 2}" y="{y + 21}" text-anchor="middle" font-weight="bold" font-size="15" '
            f'fill="#263238">{name}</text>',
            f'<text x="{x + _WIDTH // 2}" y="{y + 40}" text-anchor="middle" font-size="12.5" fill="#37474f">'
            f"{_PLACES[name][2].replace('<', '&lt;').replace('>', '&gt;')}</text>",
        ]
    return "\n".join([*lines, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
