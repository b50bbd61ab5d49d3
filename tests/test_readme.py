"""The README's list of files is complete and names nothing that is gone."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("mpdiag", "trainers", "reports", "apps")


def test_every_source_file_has_its_line() -> None:
    listed = set(re.findall(r"^\| `([^`]+)` \|", (ROOT / "README.md").read_text(), re.MULTILINE))
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for pattern in ("*.py", "*.yaml", "*.json", "*.html", "*.md", "*.tex", "*.safetensors")
        for path in (ROOT / package).rglob(pattern)
    }
    inner = {path for path in sources if path.endswith("__init__.py") and path.count("/") > 1}
    assert sources - inner <= listed
    assert all((ROOT / path).exists() for path in listed)
