"""Public modules can be used after `import mpdiag` alone."""

import sys

import pytest

import mpdiag


@pytest.mark.parametrize(
    "name", ["analysis", "checkpoints", "diagnosis", "integrations", "integrations.transformers"]
)
def test_modules_are_imported_on_first_use(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, _, module = f"mpdiag.{name}".rpartition(".")
    parent = mpdiag if package == "mpdiag" else mpdiag.integrations
    monkeypatch.delattr(parent, module, raising=False)  # other tests have imported it
    assert getattr(parent, module) is sys.modules[f"mpdiag.{name}"]


def test_unknown_names_are_errors() -> None:
    for parent in (mpdiag, mpdiag.integrations):
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            parent.nothing  # noqa: B018
