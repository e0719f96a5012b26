"""What is shipped and how it is installed: the wheel, the commands, the lock, the stubs, the skip check."""

import ast
import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SHIPPED = {".py", ".lua", ".tcss", ".sql", ".html", ".css", ".js"}
COMMANDS = [
    *("cancel", "dead", "demo", "doctor", "gateway", "key", "replay", "result", "results"),
    *("simulator", "sink", "stats", "status", "submit", "tail", "top", "worker"),
]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    with zipfile.ZipFile(next(folder.glob("tailrace-*.whl"))) as archive:
        yield archive


def test_the_wheel_holds_one_package_with_every_module_script_and_marker(wheel: zipfile.ZipFile) -> None:
    # given the folders as they stand, if a wheel is built, expect each of their files in it under `tailrace`
    face = ROOT / "tailrace"
    parts = [ROOT / link.name for link in face.iterdir() if link.is_symlink()]
    wanted = {f"tailrace/{path.name}" for path in face.iterdir() if path.suffix in SHIPPED} | {"tailrace/py.typed"}
    wanted |= {
        f"tailrace/{path.relative_to(ROOT)}" for part in parts for path in part.rglob("*") if path.suffix in SHIPPED
    }
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert wanted <= held
    assert {name.split("/")[0] for name in held} == {"tailrace"}
    assert {part.name for part in parts} == {name.split("/")[1] for name in held if name.count("/") > 1}


def test_every_part_is_checked_and_shipped() -> None:
    # given the links in `tailrace`, if pyproject.toml is read, expect each part checked, in the wheel and in the image
    parts = {link.name for link in (ROOT / "tailrace").iterdir() if link.is_symlink()}
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert {f"tailrace/{part}" for part in parts} <= set(PROJECT["tool"]["pyright"]["include"])
    assert wheel["sources"] == {part: f"tailrace/{part}" for part in parts}
    assert parts <= set(wheel["only-include"])
    assert parts <= set(re.findall(r"^COPY (\w+) \1$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))


def test_every_command_of_the_root_command_can_be_called() -> None:
    # given the project as installed, if the root command looks for its commands, expect each to import and be callable
    entries = importlib.metadata.entry_points(group="tailrace.commands")
    assert sorted(entry.name for entry in entries) == COMMANDS
    assert [entry.name for entry in entries if not callable(entry.load())] == []
    (root,) = importlib.metadata.entry_points(group="console_scripts", name="tailrace")
    assert callable(root.load())


def locked() -> dict[str, str]:
    """Name to version of every requirement in the lock; fails on a line that is no requirement, hash or comment."""
    versions: dict[str, str] = {}
    text = (ROOT / "requirements.lock").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip().startswith("#") or not line.strip():
            continue
        match = re.fullmatch(r"([a-z0-9-]+)==(\S+)( ; [^\\]+?)?((?: +--hash=sha256:[0-9a-f]{64})+) *", line)
        assert match, f"not a hashed requirement: {line[:100]}"
        versions[match[1]] = match[2]
    return versions


def test_the_lock_names_no_index_path_or_address() -> None:
    # given the lock, if read line by line, expect hashed requirements and comments only: any mirror serves it alike
    assert len(locked()) > 10
    comments = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if "#" in line]
    assert [line for line in comments if "//" in line or "index" in line] == []


def test_the_lock_satisfies_the_project() -> None:
    # given what the project, its extras, its tools and its build require, if looked up in the lock, expect each met
    project = PROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(requirement for extra in project["optional-dependencies"].values() for requirement in extra),
        *PROJECT["dependency-groups"]["dev"],
        *PROJECT["build-system"]["requires"],
    ]
    versions = locked()
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), str(requirement)


def stub_methods() -> Iterator[tuple[str, type, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in sorted((ROOT / "typings").rglob("*.pyi")):
        module = ".".join(path.relative_to(ROOT / "typings").with_suffix("").parts).removesuffix(".__init__")
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                real: type = getattr(importlib.import_module(module), node.name)
                for method in node.body:
                    if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
                        yield f"{module}.{node.name}.{method.name}", real, method


def test_the_stubs_say_nothing_that_redis_does_not_have() -> None:
    # given the stubs, if each method is looked up in the installed redis-py, expect it there with the parameters named
    wrong: list[str] = []
    for name, real, method in stub_methods():
        found = inspect.getattr_static(real, method.name, None)
        if found is None:
            wrong.append(name)
        elif not isinstance(found, property):
            known = inspect.signature(getattr(real, method.name)).parameters
            named = {argument.arg for argument in (*method.args.args, *method.args.kwonlyargs)} - {"self", "cls"}
            wrong += [f"{name}({argument})" for argument in sorted(named - set(known))]
    assert wrong == []


@pytest.mark.parametrize(
    ("reason", "code"), [("docker: no engine runs here", 0), ("no browser", 1), ("expected to fail", 1)]
)
def test_a_skipped_test_fails_the_check_unless_it_needs_docker(tmp_path: Path, reason: str, code: int) -> None:
    # given a report with a skipped test, if the reason is not a missing Docker engine, expect a failure that names it
    report = tmp_path / "tests.xml"
    report.write_text(
        f'<testsuites><testsuite><testcase classname="c" name="ran"/><testcase classname="c" name="left_out">'
        f'<skipped type="pytest.skip" message="{reason}"/></testcase></testsuite></testsuites>'
    )
    check = subprocess.run([sys.executable, ".ci/skips.py", str(report)], cwd=ROOT, capture_output=True, text=True)
    assert check.returncode == code
    assert ("c::left_out" in check.stderr) == bool(code)
