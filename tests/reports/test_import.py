"""Reports are read without torch: the rooms can be imported and rules run where it is not installed."""

import pkgutil
import subprocess
import sys

import alignedfusion.reports

WITHOUT_TORCH = """
import importlib, sys
sys.modules["torch"] = None  # any import of it fails
for name in sys.argv[1:]:
    importlib.import_module(name)
from alignedfusion.reports import *
cell = RuleExtractor("chest_xray").extract("No pleural effusion.")["pleural_effusion"]
print(cell.value, "torch" in {name.split(".")[0] for name, module in sys.modules.items() if module})
"""


def test_every_module_of_reports_is_imported_and_rules_run_without_torch():
    modules = [info.name for info in pkgutil.walk_packages(alignedfusion.reports.__path__, "alignedfusion.reports.")]
    assert "alignedfusion.reports.chat.extractor" in modules
    run = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *modules], capture_output=True, text=True)
    assert (run.stdout, run.stderr) == ("negative False\n", "")
