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


def code(module: str, *names: str) -> str:
    """Functions and methods of a module as they stand in the code, without docstrings.

    Args:
        module: inside the package, as in "heads.paths".
        names: "function", or "Class.method".
    """
    file = f"{module.replace('.', '/')}.py"
    lines = (PACKAGE / file).read_text().splitlines()
    blocks = []
    for name in names:
        scope: list[ast.stmt] = ast.parse("\n".join(lines)).body
        for part in name.split("."):
            node = next(
                node for node in scope if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == part
            )
            scope = node.body
        shown = lines[node.lineno - 1 : node.end_lineno]
        if ast.get_docstring(node) is not None:
            first, last = node.body[0].lineno - node.lineno, (node.body[0].end_lineno or 0) - node.lineno
            shown = shown[:first] + shown[last + 1 :]
        owner = [f"class {name.rpartition('.')[0]}:  # genpolicy/{file}"] if "." in name else [f"# genpolicy/{file}"]
        if blocks and blocks[-1][0] == owner[0]:
            blocks[-1] += ["", *shown]
        else:
            blocks.append([*owner, *shown])
    return "``` { .py }\n" + "\n\n\n".join("\n".join(block).rstrip() for block in blocks) + "\n```"
