"""The check of forbidden words."""

import runpy
from pathlib import Path

import pytest

CHECK = runpy.run_path(str(Path(__file__).with_name("check_language.py")))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("self.head_room = make_room(TapHook)", ["room", "room", "tap"]),
        ("def is_told(): # mending, united, housed", ["told", "mending", "united", "housed"]),
        ("class CensusSUBJECT: floor = 1", ["census", "subject", "floor"]),
        ("torch.floor(x) + x.floor() + math.floor(2.5); std::floor(x); floor_divide(a, b)", []),
        ('torch.div(a, b, rounding_mode="floor"); names = ["wall", "floor"]', []),
        ('<img src="data:image/png;base64,Ax+Led/0Tap=" alt="a house">', ["house"]),
        ("mushroom, outdoors, recommend, intelligent, misleading, stapled", []),
    ],
)  # fmt: skip
def test_forbidden_words(line: str, words: list[str]) -> None:
    assert list(CHECK["forbidden_words"](line)) == words


def test_report_names_file_and_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("door.py").write_text("x = 1\n# a house\n")
    Path("model.pth").write_bytes(b"\x80\xff house")
    Path("CHANGELOG.md").write_text("house")
    paths = ["door.py", "model.pth", "CHANGELOG.md", "deleted.py"]
    assert list(CHECK["check"](paths)) == ["door.py:0: door", "door.py:2: house"]
