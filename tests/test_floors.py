"""A file imports from floors below its own, inside its own package, and never from above."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "midframe"

# docs/architecture.md draws the same picture
FLOORS = {
    "errors": -1, "process": -1,
    "types": 0, "options": 0,
    "timeline": 1, "dispatch": 1, "storage": 1, "ops": 1, "colour": 1, "metrics": 1, "weights": 1, "journal": 1,
    "compat": 1, "result": 1,
    "video": 2, "models": 2, "shots": 2, "overlays": 2, "certainty": 2, "scenes": 2,
    "engine": 3, "plan": 3,
    "segments": 4,
    "pipeline": 5, "interpolator": 5, "evaluation": 5, "training": 5,
    "modelscope": 6, "cluster": 6, "batch": 6, "server": 6,
    "cli": 7, "__main__": 8, "__init__": 8,
}  # fmt: skip


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("midframe.")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "midframe":
            if node.module == "midframe":
                found |= {f"midframe.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
    return {name.split(".")[1] for name in found}


def test_imports_go_downwards() -> None:
    breaches = []
    for path in SOURCE.rglob("*.py"):
        own = room(path)
        assert own in FLOORS, f"{path.relative_to(SOURCE)} stands on no floor"
        for other in imports(ast.parse(path.read_text())):
            if other == own or other == "__version__":
                continue
            if other not in FLOORS:
                breaches.append(f"{path.relative_to(SOURCE)} imports {other}, which is on no floor")
            elif FLOORS[other] >= FLOORS[own]:
                breaches.append(f"{path.relative_to(SOURCE)} (floor {FLOORS[own]}) imports {other} ({FLOORS[other]})")
    assert not breaches, "\n".join(breaches)


def test_heavy_libraries_keep_to_their_rooms() -> None:
    rooms = {"av": {"video"}, "ray": {"cluster"}, "fastapi": {"server"}, "uvicorn": {"server", "cli"}, "click": {"cli"}}
    breaches = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                top = name.split(".")[0]
                if top in rooms and room(path) not in rooms[top]:
                    breaches.append(f"{path.relative_to(SOURCE)} imports {top}")
    assert not breaches, "\n".join(breaches)
