"""The rules of the house, each held by a small test over the syntax trees."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from whatchanged.config import AuditConfig
from whatchanged.config_file import load_config
from whatchanged.sae_config import load_comparison

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "src" / "whatchanged"
STAGES = ("decode", "embed", "cluster", "sample", "hypothesize", "judge", "validate", "report")
# Developer tools that train and count the embedded pair; no audit runs them.
DEMO_TOOLS = {LIBRARY / "demo" / name for name in ("train.py", "train_saes.py", "measure.py")}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def python_files(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def imports_of(path: Path) -> set[str]:
    """Every dotted name that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def importers_of(paths: list[Path], banned: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in paths
        for name in sorted(imports_of(path))
        if any(name == ban or name.startswith(f"{ban}.") for ban in banned)
    ]


def calls_in(path: Path) -> Iterator[tuple[ast.Call, str, str]]:
    return calls_in_tree(tree_of(path))


def calls_in_tree(tree: ast.Module) -> Iterator[tuple[ast.Call, str, str]]:
    """Every call with the name of what is called and of the thing that it is called on ("" for a
    plain function, "it" for a thing without a name)."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute):
            on = node.func.value
            owner = on.id if isinstance(on, ast.Name) else getattr(on, "attr", "it")
            yield node, node.func.attr, owner
        elif isinstance(node.func, ast.Name):
            yield node, node.func.id, ""


def tracked_files(*patterns: str) -> set[str]:
    """Files of the repository, those not yet added included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {line for line in listed.splitlines() if (ROOT / line).is_file()}


def test_the_library_imports_neither_prefect_nor_flows_nor_tasks() -> None:
    assert importers_of(python_files("src"), {"prefect", "flows", "tasks"}) == []


def test_tasks_do_not_import_flows() -> None:
    assert importers_of(python_files("tasks"), {"flows"}) == []


def test_importing_the_library_is_quick_and_loads_neither_prefect_nor_torch() -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import whatchanged; "
        "s = time.perf_counter() - t; "
        "print(s, *[m for m in ('prefect', 'torch', 'pandas', 'numpy') if m in sys.modules])"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
        for _ in range(3)
    ]
    assert min(float(seconds) for seconds, *_ in outputs) < 0.3
    assert [loaded for _, *loaded in outputs] == [[], [], []]


WRITING_METHODS = {
    "write_text", "write_bytes", "touch", "mkdir", "rmdir", "unlink", "symlink_to", "hardlink_to",
    "to_csv", "to_feather", "to_pickle", "save_pretrained", "save_file", "savetxt", "savez",
    "savez_compressed", "memmap", "mkstemp", "mkdtemp", "NamedTemporaryFile", "TemporaryDirectory",
}  # fmt: skip
WRITING_OWNERS = {
    "os": {"replace", "rename", "remove", "link", "symlink", "makedirs", "mkdir", "truncate"},
    "shutil": {"copy", "copy2", "copyfile", "copytree", "move", "rmtree"},
    "np": {"save"},
    "torch": {"save"},
    "json": {"dump"},
}


def writes_a_file(call: ast.Call, name: str, owner: str) -> bool:
    # A run folder is the store's own object; no pathlib folder has a write_bytes that works.
    if owner == "folder" and name in {"write_text", "write_bytes"}:
        return False
    if name in WRITING_METHODS or name in WRITING_OWNERS.get(owner, ()):
        return True
    if name != "open":
        return False
    if owner == "os":
        to_nowhere = bool(call.args) and ast.unparse(call.args[0]) == "os.devnull"
        return not to_nowhere
    # Path.open takes the mode first, the built-in open takes it second.
    modes = [*call.args[(0 if owner else 1) : (1 if owner else 2)]]
    modes += [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    return any(set("wax+") & set(str(getattr(mode, "value", "w"))) for mode in modes)


@pytest.mark.parametrize(
    ("code", "writes"),
    [
        ("open('a', 'w')", True),
        ("open('a')", False),
        ("path.open('rb')", False),
        ("path.open(mode='ab')", True),
        ("open('a', mode)", True),
        ("path.write_text('x')", True),
        ("job.folder.write_bytes('report.md', data)", False),
        ("os.replace(a, b)", True),
        ("'a'.replace('b', 'c')", False),
        ("os.open(os.devnull, os.O_WRONLY)", False),
        ("os.open(path, flags)", True),
        ("np.save(path, x)", True),
    ],
)
def test_the_search_for_writers_knows_a_write_when_it_sees_one(code: str, writes: bool) -> None:
    ((call, name, owner),) = calls_in_tree(ast.parse(code))
    assert writes_a_file(call, name, owner) is writes


def test_only_the_store_writes_files() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno} {name}"
        for path in python_files("src", "tasks", "flows")
        if not path.is_relative_to(LIBRARY / "store") and path not in DEMO_TOOLS
        for call, name, owner in calls_in(path)
        if writes_a_file(call, name, owner)
    ]
    assert found == []


def test_only_the_models_room_talks_to_a_gpu_or_a_network() -> None:
    banned = {
        "torch", "transformers", "sentence_transformers", "tokenizers", "huggingface_hub", "vllm",
        "requests", "httpx", "aiohttp", "urllib.request", "http.client", "openai", "google",
    }  # fmt: skip
    outside = [
        path
        for path in python_files("src", "tasks", "flows")
        if not path.is_relative_to(LIBRARY / "models") and path not in DEMO_TOOLS
    ]
    assert importers_of(outside, banned) == []
    assert importers_of(outside, {"fsspec"}) == ["src/whatchanged/store/shared.py: fsspec"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_one_name_in_all_rooms(stage: str) -> None:
    blocks = {field.alias or name for name, field in AuditConfig.model_fields.items()}
    assert stage in blocks
    assert (LIBRARY / f"{stage}.py").is_file()
    assert (ROOT / "tasks" / f"{stage}.py").is_file()
    assert f"tasks.{stage}" in imports_of(ROOT / "flows" / "audit.py")


def test_no_flow_has_the_name_of_an_importable_module() -> None:
    stems = {path.stem for path in (ROOT / "flows").glob("*.py")} - {"__init__"}
    assert "audit" in stems
    assert [stem for stem in sorted(stems) if stem in sys.stdlib_module_names] == []
    assert [stem for stem in sorted(stems) if importlib.util.find_spec(stem) is not None] == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    nothing = {"utils", "util", "helpers", "common", "manager", "core", "base", "misc"}
    paths = python_files("src", "tasks", "flows", "benchmarks", "tests")
    named = [path for path in paths if nothing & {path.stem, path.parent.name}]
    assert named == []


def test_modules_and_functions_stay_short() -> None:
    paths = python_files("src", "tasks", "flows", "benchmarks")
    long_modules = {
        str(path.relative_to(ROOT)): n_lines
        for path in paths
        if (n_lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    long_functions = {
        f"{path.relative_to(ROOT)}:{node.name}": n_lines
        for path in paths
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (n_lines := (node.end_lineno or node.lineno) - node.lineno + 1) > 80
    }
    assert long_modules == {}
    assert long_functions == {}


def test_nothing_is_pickled_and_nothing_is_hashed_with_a_salt() -> None:
    paths = python_files("src", "tasks", "flows", "benchmarks")
    assert importers_of(paths, {"pickle", "cloudpickle", "dill", "joblib", "shelve"}) == []
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno} {owner}.{name}"
        for path in paths
        for call, name, owner in calls_in(path)
        if (owner, name) in {("torch", "load"), ("", "hash"), ("", "eval"), ("", "exec")}
        or any(keyword.arg == "allow_pickle" for keyword in call.keywords)
    ]
    assert found == []


def test_only_keys_hashes() -> None:
    outside = [path for path in python_files("src", "tasks", "flows") if path.name != "keys.py"]
    assert importers_of(outside, {"hashlib", "blake3", "xxhash"}) == []


def test_no_test_uses_a_mock_library() -> None:
    assert importers_of(python_files("tests"), {"unittest.mock", "mock", "pytest_mock"}) == []


def test_the_wheel_is_told_to_hold_only_the_library() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert settings["targets"]["wheel"] == {"packages": ["src/whatchanged"]}


@pytest.mark.long
def test_the_wheel_holds_only_the_library(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("whatchanged-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"whatchanged"}
    for needed in ("py.typed", "demo/prompts.jsonl", "demo/models/base/model.safetensors"):
        assert f"whatchanged/{needed}" in names


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_config_loads_and_says_what_it_costs(path: Path) -> None:
    first_line = path.read_text(encoding="utf-8").splitlines()[0]
    assert re.match(r"# Cost: .+\$", first_line)
    load = load_comparison if path.stem == "saes" else load_config
    assert load(path).name == path.stem


def test_the_configs_that_the_readme_names_are_there() -> None:
    stems = {path.stem for path in (ROOT / "configs").glob("*.yaml")}
    assert {"demo", "null", "null_intervention", "exhaustive"} <= stems


def mapped_files(readme: str) -> dict[str, str]:
    """The paths of the README's file map, each with what is said of it."""
    block = readme.split("## File map")[1].split("```")[1]
    folders: list[str] = []
    found: dict[str, str] = {}
    for line in block.splitlines()[1:]:
        if not line.strip():
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, said = line.strip().partition(" ")
        del folders[depth:]
        if name.endswith("/"):
            folders.append(name)
        else:
            found["".join(folders) + name] = said.strip()
    return found


def test_the_file_map_is_read_by_its_indentation() -> None:
    readme = (
        "## File map\n```\na/  room\n  b.py  says b\n  c/\n    d.py  says d\ne.py  says e\n```\n"
    )
    assert mapped_files(readme) == {"a/b.py": "says b", "a/c/d.py": "says d", "e.py": "says e"}


def test_the_readme_has_a_line_for_every_source_file() -> None:
    mapped = mapped_files((ROOT / "README.md").read_text(encoding="utf-8"))
    sources = tracked_files("src/*.py", "tasks/*.py", "flows/*.py", "benchmarks/*.py", "configs/*")
    named = {path for path in sources if not path.endswith("__init__.py")}
    assert sorted(named - mapped.keys()) == []
    assert sorted(path for path in mapped if not (ROOT / path).is_file()) == []
    assert sorted(path for path, said in mapped.items() if len(said.split()) < 2) == []


@pytest.mark.parametrize(
    "name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "log.md"]
)
def test_no_document_links_to_a_missing_file(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    targets = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    local = [link for link in targets if link and "://" not in link]
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_the_config_reference_lists_every_key_with_its_default() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.split("## Config reference")[1].split("```yaml")[1].split("```")[0]
    documented = AuditConfig.model_validate(yaml.safe_load(block))
    models = {"base": documented.base, "intervention": documented.intervention}
    assert documented == AuditConfig(**models)
    shown = set(dotted_keys(yaml.safe_load(block)))
    known = set(dotted_keys(documented.model_dump(by_alias=True)))
    # The two sides have the same keys: the base shows them all.
    assert {key for key in known - shown if not key.startswith("intervention.")} == set()


def dotted_keys(block: dict[str, object], prefix: str = "") -> Iterator[str]:
    for key, value in block.items():
        if isinstance(value, dict):
            yield from dotted_keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def test_the_readme_names_every_command() -> None:
    from whatchanged.cli import app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = [name for name in app if not name.startswith("-")]
    assert len(commands) >= 7
    assert [name for name in commands if f"`whatchanged {name}" not in readme] == []


def test_the_constraints_pin_every_dependency_and_the_plain_torch() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin)] == []
    pinned = {normal_name(pin.split("==")[0]) for pin in pins}
    assert "torch==2.13.0" in pins
    assert "whatchanged" not in pinned
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    needed = [line for group in groups for line in group]
    names = {normal_name(re.split(r"[^A-Za-z0-9._-]", line)[0]) for line in needed}
    assert sorted(names - pinned) == []


def normal_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_make_offers_what_was_promised() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    promised = {"env", "demo", "test", "test-long", "check", "bench", "faults", "deploy-local"}
    assert promised <= targets
