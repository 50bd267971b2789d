"""What docs/detection.md prints must be true."""

import re
from pathlib import Path

import torch

PAGE = (Path(__file__).parent.parent / "docs" / "detection.md").read_text()


def test_the_code_of_the_page_runs_and_changes_nothing_yet():
    names: dict = {}
    torch.manual_seed(0)
    for code in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(compile(code, "detection.md", "exec"), names)  # the page is ours
    alone = names["fusion"].eval() and names["detector"].eval()(names["images"])
    for said, expected in zip(names["boxes"], alone, strict=True):
        assert all(torch.equal(said[key], expected[key]) for key in expected)
