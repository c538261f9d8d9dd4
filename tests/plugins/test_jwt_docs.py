"""The page of the `jwt` plugin is true: its configurations load, and every setting stands there as its model has it."""

import re
from pathlib import Path

import pytest

from gatewright.control.loader import load
from gatewright.core.units import DURATION_PATTERN, in_words
from gatewright.plugins.jwt_config import JwksConfig, JwtConfig

TEXT = (Path(__file__).parents[2] / "docs/plugins/jwt.md").read_text()


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL))
def test_examples_load(block, tmp_path):
    (tmp_path / "gateway.yaml").write_text(block)
    assert [str(error) for error in load(tmp_path / "gateway.yaml", {}).errors] == []


def test_every_setting_is_there():
    for model, prefix in ((JwtConfig, ""), (JwksConfig, "jwks.")):
        for name, field in model.model_fields.items():
            default = field.default
            if isinstance(default, float):
                default = in_words(default, DURATION_PATTERN) if default else "0s"
            elif isinstance(default, bool):
                default = str(default).lower()
            elif isinstance(default, tuple) and default:
                default = f"[{', '.join(default)}]"
            shown = f"`{default}`" if default else ""
            assert f"\n| `{prefix}{name}` | {shown} | {field.description} |\n" in TEXT, f"{prefix}{name}"
