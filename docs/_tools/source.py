"""Facts read from the library's source text: signatures of the interfaces, and which package imports which."""

import ast
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "genpolicy"
INTERFACES = (
    ("heads/base.py", "GenerativeHead"),
    ("critics/base.py", "Critic"),
    ("policies/base.py", "Policy"),
)


def signatures() -> str:
    """The public methods of the three interfaces as they stand in the code."""
    blocks = []
    for file, name in INTERFACES:
        tree = ast.parse((PACKAGE / file).read_text())
        owner = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
        lines = [f"class {name}({', '.join(map(ast.unparse, owner.bases))}):  # genpolicy/{file}"]
        for node in owner.body:
            if isinstance(node, ast.FunctionDef) and (node.name == "__init__" or not node.name.startswith("_")):
                lines += [f"    @{ast.unparse(one)}" for one in node.decorator_list]
                returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
                lines.append(f"    def {node.name}({ast.unparse(node.args)}){returns}: ...")
        blocks.append("\n".join(lines))
    return "``` { .py }\n" + "\n\n\n".join(blocks) + "\n```"


def import_graph() -> dict[str, set[str]]:
    """Packages and top modules of the library, each with those that it imports anywhere in its code."""
    graph: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        own = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if own in ("__init__", "parts"):
            continue
        for name in _imported(ast.parse(path.read_text())):
            if name not in (own, "parts", "__version__"):
                graph.setdefault(own, set()).add(name)
    for name in {name for names in graph.values() for name in names}:
        graph.setdefault(name, set())
    return graph


def _imported(tree: ast.AST) -> Iterable[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "genpolicy":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("genpolicy."):
            yield (node.module or "").split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("genpolicy."))
        yield from _imported(node)
