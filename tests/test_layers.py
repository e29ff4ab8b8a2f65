"""A file imports from layers below its own and inside its own package, never from above, and never in a circle."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "midframe"

# docs/architecture.md draws the same frame
LAYERS = {
    "errors": -1, "speed": -1, "process": -1, "devices": -1, "extras": -1, "torch_import": -1,
    "_native": -1, "kernels": 0,
    "types": 0, "options": 0,
    "timeline": 1, "storage": 1, "ops": 1, "colour": 1, "metrics": 1, "weights": 1, "journal": 1,
    "compat": 1, "result": 1, "profiles": 1, "commit": 2,
    "video": 2, "machine_speed": 2, "models": 2, "shots": 2, "overlays": 2, "shutter": 2, "confidence": 2, "scenes": 2,
    "engine": 3, "plan": 3,
    "segments": 4, "planning": 4,
    "pipeline": 5, "interpolator": 5, "evaluation": 5, "training": 5,
    "modelscope": 6, "streaming": 6, "vapoursynth": 6, "cluster": 6, "batch": 6, "server": 6,
    "cli": 7, "__main__": 8, "__init__": 8,
}  # fmt: skip

HEAVY = {"av": {"video"}, "ray": {"cluster"}, "fastapi": {"server"}, "uvicorn": {"server", "cli"}, "click": {"cli"}}


def package_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> set[str]:
    """Dotted names of the midframe modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("midframe.")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "midframe":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
            if node.module != "midframe":
                found.add(node.module)
    return found


def test_imports_go_downwards() -> None:
    breaches = []
    for path in SOURCE.rglob("*.py"):
        own = package_of(path)
        assert own in LAYERS, f"{path.relative_to(SOURCE)} is in no layer"
        for other in {name.split(".")[1] for name in imported(ast.parse(path.read_text()))}:
            if other == own or other == "__version__":
                continue
            if other not in LAYERS:
                breaches.append(f"{path.relative_to(SOURCE)} imports {other}, which is in no layer")
            elif LAYERS[other] >= LAYERS[own]:
                breaches.append(f"{path.relative_to(SOURCE)} (layer {LAYERS[own]}) imports {other} ({LAYERS[other]})")
    assert not breaches, "\n".join(breaches)


@pytest.mark.parametrize(
    "package",
    sorted(path.parent for path in SOURCE.rglob("__init__.py")),
    ids=lambda path: str(path.relative_to(SOURCE)),
)
def test_no_cycle_inside_a_package(package: Path) -> None:
    """Its files and subpackages do not import each other in a circle; `__init__` imports for the outside."""
    prefix = ".".join(("midframe", *package.relative_to(SOURCE).parts))
    parts: dict[str, set[str]] = {
        path.relative_to(package).parts[0].removesuffix(".py"): set() for path in package.rglob("*.py")
    }
    del parts["__init__"]
    for path in package.rglob("*.py"):
        own = path.relative_to(package).parts[0].removesuffix(".py")
        for name in imported(ast.parse(path.read_text())):
            other = name.removeprefix(f"{prefix}.").split(".")[0]
            if name.startswith(f"{prefix}.") and other in parts and own in parts and other != own:
                parts[own].add(other)
    while free := {name for name, others in parts.items() if not others}:
        parts = {name: others - free for name, others in parts.items() if name not in free}
    assert not parts, f"these import each other: {', '.join(sorted(parts))}"


def test_heavy_libraries_are_imported_in_one_package() -> None:
    breaches = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                if top in HEAVY and package_of(path) not in HEAVY[top]:
                    breaches.append(f"{path.relative_to(SOURCE)} imports {top}")
    assert not breaches, "\n".join(breaches)


def test_functions_take_at_most_eight_parameters() -> None:
    """More of them are a dataclass. Engine's are the keywords of a public constructor, as `Interpolator` has them."""
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                if len([name for name in names if name not in ("self", "cls")]) > 8:
                    found.append(f"{path.relative_to(SOURCE).as_posix()}: {node.name}")
    assert found == ["engine.py: __init__"]


def test_tests_use_public_names() -> None:
    found = []
    for path in Path(__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        ours = [node for node in imports if str(node.module).split(".")[0] == "midframe"]
        names = {alias.asname or alias.name for node in ours for alias in node.names}
        found += [f"{path.name}: {name}" for name in names if name[:1] == "_" and name[:2] != "__"]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr[:1] == "_" and node.attr[:2] != "__":
                root = node.value
                while isinstance(root, ast.Attribute):
                    root = root.value
                if isinstance(root, ast.Name) and root.id in names:
                    found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    assert not found


def test_no_two_modules_give_one_name_to_two_constants() -> None:
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [name for target in targets for name in getattr(target, "elts", [target])]
            for name in names:
                if isinstance(name, ast.Name) and name.id.isupper() and len(name.id) > 1:
                    found.setdefault(name.id.lstrip("_"), set()).add(str(path.relative_to(SOURCE)))
    assert len(found) > 500
    assert not {name: sorted(files) for name, files in found.items() if len(files) > 1}
