"""MkDocs hooks: pages of the examples, formulas as MathML, and a check that the site loads nothing from other hosts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
_FETCHED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//|<link\b[^>]*\bhref=[\"']?(?:https?:)?//"
)
_FETCHED_BY_CSS = re.compile(r"(?:url\(|@import )[\"']?(?:https?:)?//")


def on_config(config: Any) -> None:
    """Render ```math fences as MathML, which browsers display without a script; GitHub renders the same fence."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {}).setdefault("custom_fences", [])
    fences.append({"name": "math", "class": "math", "format": _formula})


def on_files(files: Files, config: Any) -> Files:
    """Add a page for each example, with its source text."""
    for path in sorted((ROOT / "examples").rglob("*.*")):
        if path.suffix in (".py", ".yaml"):
            language = "python" if path.suffix == ".py" else "yaml"
            page = f"# {path.name}\n\n```{language}\n{path.read_text('utf-8')}```\n"
            name = path.relative_to(ROOT).with_suffix(".md").as_posix()
            files.append(File.generated(config, name, content=page))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links to files of `examples/`, which is outside docs/, to the generated pages."""
    return re.sub(r"\]\(((?:\.\./)*)\.\./(examples/[\w/]+)\.(?:py|yaml)\)", r"](\1\2.md)", markdown)


def on_post_build(config: Any) -> None:
    """Fail if the built site would load anything from another host."""
    for pattern, kind in ((_FETCHED, "*.html"), (_FETCHED_BY_CSS, "*.css")):
        for path in Path(config.site_dir).rglob(kind):
            if found := pattern.search(path.read_text("utf-8")):
                raise PluginError(f"{path.relative_to(config.site_dir)} fetches from another host: {found.group()!r}")


def _formula(source: str, language: str, css_class: str, options: Any, md: Any, **_: Any) -> str:
    return f'<div class="{css_class}">{convert(source, display="block")}</div>'
