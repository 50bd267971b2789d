"""The tables of docs/encoders.md. `python docs/encoders.py` writes them from docs/encoders.yaml.

`tests/modules/test_encoders.py` tries every row, and compares the page with the file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

PAGE = Path(__file__).with_suffix(".md")


def read() -> dict[str, list[dict[str, Any]]]:
    """The rows of docs/encoders.yaml: `timm`, `own` and `text`."""
    return yaml.safe_load(PAGE.with_suffix(".yaml").read_text("utf-8"))


def table(kind: str) -> str:
    """One of the tables of the page, as Markdown."""
    rows = read()[kind.removesuffix("-args")]
    if kind == "timm-args":
        head = "| name | `timm_args` |"
        lines = [f"| {row['name']} | `{json.dumps(row['args'])}` |" for row in rows if "args" in row]
    elif kind == "text":
        head = "| name | trained on | repository | licence |"
        lines = [f"| {row['name']} | {row['trained']} | `{row['hub']}` | {row['licence']} |" for row in rows]
    else:
        head = f"| name | images | {'repository' if kind == 'timm' else 'encoder'} | input | tokens | licence |"
        lines = [
            f"| {row['name']} | {row['images']} | `{row['hub'] if kind == 'timm' else row['load']}` | {row['input']} | "
            f"{row['tokens']} | {row['licence']} |"
            for row in rows
        ]
    return "\n".join([head, "|" + "---|" * (head.count("|") - 1), *lines])


def fill(page: str) -> str:
    """The page with its tables written again."""
    return re.sub(
        r"<!-- (timm|timm-args|own|text) -->\n.*?<!-- end -->",
        lambda match: f"<!-- {match[1]} -->\n{table(match[1])}\n<!-- end -->",
        page,
        flags=re.DOTALL,
    )


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text("utf-8")), encoding="utf-8")
