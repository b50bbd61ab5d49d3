import pytest

from mpdiag.commands.size import parse_size
from mpdiag.errors import ConfigError


def test_parse_size() -> None:
    assert parse_size("800x1333") == parse_size("800X1333") == (800, 1333)
    for wrong in ("800", "800x", "x", "0x5", "8x-5", "axb", "1x2x3"):
        with pytest.raises(ConfigError, match=f"--size {wrong}: .* such as 800x1333"):
            parse_size(wrong)
