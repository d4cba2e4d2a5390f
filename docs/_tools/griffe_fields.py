"""Shows the fields of a class on its API page: a griffe extension.

Hyperparameters: in the source a field is ``name: type = option(default, "meaning", minimum=0)`` or ``slot(...)``. Here
the call becomes the plain default, as a reader of Python expects it, and the meanings become the class's parameters.

Records, that is named tuples and other dataclasses: a field whose name and type say everything has no docstring in the
source, and would be left out.
"""

import ast
from typing import Any

import griffe

DEFAULT_AND_HELP = {"genpolicy.options.option": (0, 1), "genpolicy.options.slot": (1, 2)}
OPTIONS = "genpolicy.options.Options"
RANGE = {"minimum": "at least", "above": "above", "maximum": "at most", "below": "below"}


class ShowFields(griffe.Extension):
    """Gives every subclass of Options its parameters, inherited ones included, and every record all its fields."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Read all hyperparameters before they are listed, as a class may inherit them from any module."""
        found = classes(pkg)
        options = [one for one in found if any(base.path == OPTIONS for base in one.mro())]
        meanings = {one.path: read_options(one) for one in options}
        for one in found:
            if one.path in meanings:
                list_options(one, meanings)
            elif is_record(one):
                show_fields(one)


def classes(parent: griffe.Module | griffe.Class) -> list[griffe.Class]:
    """All classes that are defined below a module."""
    found = []
    for member in parent.members.values():
        if isinstance(member, griffe.Class):
            found.append(member)
        if isinstance(member, griffe.Module | griffe.Class):
            found += classes(member)
    return found


def read_options(config: griffe.Class) -> dict[str, str]:
    """The meaning of every hyperparameter that the class itself has; its value becomes the default alone."""
    meanings = {}
    for field in fields(config):
        call = field.value
        if isinstance(call, griffe.ExprCall) and call.canonical_path in DEFAULT_AND_HELP:
            default, meaning = DEFAULT_AND_HELP[call.canonical_path]
            given = [one for one in call.arguments if not isinstance(one, griffe.ExprKeyword)]
            named = {one.name: one.value for one in call.arguments if isinstance(one, griffe.ExprKeyword)}
            limits = [f"{words} {named[name]}" for name, words in RANGE.items() if name in named]
            text = ast.literal_eval(str(given[meaning])) + (f" ({', '.join(limits)})" if limits else "")
            field.value = given[default]
        else:
            text = f"options of this group, see `{field.annotation}`"
        meanings[field.name] = text
    return meanings


def list_options(config: griffe.Class, meanings: dict[str, dict[str, str]]) -> None:
    """Write the class's own and inherited hyperparameters below its docstring."""
    family = [*reversed(config.mro()), config]
    texts = {name: text for member in family for name, text in meanings.get(member.path, {}).items()}
    if texts and config.docstring is not None:
        lines = [f"    {name}: {text}" for name, text in texts.items()]
        config.docstring.value = "\n".join([config.docstring.value, "", "Args:", *lines])


def is_record(one: griffe.Class) -> bool:
    """Whether a class is a named tuple or a dataclass."""
    decorators = {decorator.callable_path for decorator in one.decorators}
    return "dataclasses.dataclass" in decorators or "NamedTuple" in map(str, one.bases)


def show_fields(record: griffe.Class) -> None:
    """Give fields that stand nowhere in the docstrings an empty one, which lets them be shown."""
    sections = record.docstring.parse("google", warnings=False) if record.docstring else []
    told = {one.name for section in sections if section.kind.value == "attributes" for one in section.value}
    for field in fields(record):
        if field.docstring is None and field.name not in told:
            field.docstring = griffe.Docstring("", parent=field)


def fields(owner: griffe.Class) -> list[griffe.Attribute]:
    """The annotated attributes of a class."""
    return [one for one in owner.attributes.values() if not one.is_alias and one.annotation is not None]
