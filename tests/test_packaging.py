"""What is said twice about the package is said alike, and what it ships is there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import metafunc

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
CONFIG: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = CONFIG["project"]
PINS = [
    Requirement(line)
    for line in (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
PYTHONS = [
    label.rpartition(" ")[2]
    for label in PROJECT["classifiers"]
    if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", label)
]
ENVIRONMENT = {str(k): str(v) for k, v in default_environment().items()}


def holds(requirement: Requirement, python: str) -> bool:
    """Whether a line is meant for this version of Python."""
    environment = ENVIRONMENT | {"python_version": python, "python_full_version": f"{python}.0"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


@pytest.mark.parametrize("python", PYTHONS)
def test_every_pin_is_one_public_version(python: str) -> None:
    pins = [pin for pin in PINS if holds(pin, python)]
    for pin in pins:
        (only,) = pin.specifier
        assert only.operator == "=="
        assert Version(only.version).local is None
    names = [canonicalize_name(pin.name) for pin in pins]
    assert names == sorted(set(names))


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("extra", ["", *PROJECT["optional-dependencies"]])
def test_every_requirement_is_pinned(extra: str, python: str) -> None:
    lines: list[str] = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    pins = {canonicalize_name(pin.name): pin for pin in PINS if holds(pin, python)}
    for needed in map(Requirement, lines):
        if needed.name == PROJECT["name"]:  # an extra that takes others in
            assert needed.extras <= set(PROJECT["optional-dependencies"])
        elif holds(needed, python):
            (only,) = pins[canonicalize_name(needed.name)].specifier
            assert needed.specifier.contains(only.version, prereleases=True)


def test_hooks_have_no_versions_of_their_own() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"repo: (\S+)", hooks) == ["local"]
    assert "rev:" not in hooks
    assert "additional_dependencies" not in hooks


def test_the_workflow_runs_every_python_that_is_promised() -> None:
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    (matrix,) = re.findall(r"python: \[(.*)\]", workflow)
    assert re.findall(r"[\d.]+", matrix) == PYTHONS
    promised = Requirement(f"python {PROJECT['requires-python']}").specifier
    assert [f"3.{minor}" for minor in range(30) if f"3.{minor}" in promised] == PYTHONS


@pytest.mark.parametrize("file", ["py.typed", "data/glyphs.npz", "data/LICENSE_DEJAVU", "data/README.md"])
def test_what_the_wheel_carries_besides_code_is_there(file: str) -> None:
    assert (ROOT / "metafunc" / file).is_file()
    assert CONFIG["tool"]["hatch"]["build"]["targets"]["wheel"] == {"packages": ["metafunc"]}


def test_the_files_that_the_configuration_names_are_there() -> None:
    for file in PROJECT["license-files"]:
        assert (ROOT / file).is_file()
    assert PROJECT.get("readme") == ("README.md" if (ROOT / "README.md").exists() else None)


def test_the_newest_heading_of_the_changelog_is_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d[^\]]*)\]", changelog, flags=re.MULTILINE)
    assert versions[0] == metafunc.__version__
    assert versions == sorted(versions, key=Version, reverse=True)
