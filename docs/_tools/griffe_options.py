"""Shows the hyperparameters of a part on its API page: a griffe extension that reads ``option()`` and ``slot()``.

In the source a field is ``name: type = option(default, "meaning", minimum=0)``. Here the call becomes the plain
default, as a reader of Python expects it, and the meanings become the class's list of parameters.
"""

import ast
from typing import Any

import griffe

DEFAULT_AND_HELP = {"genpolicy.options.option": (0, 1), "genpolicy.options.slot": (1, 2)}
OPTIONS = "genpolicy.options.Options"
RANGE = {"minimum": "at least", "above": "above", "maximum": "at most", "below": "below"}


class ShowOptions(griffe.Extension):
    """Gives every subclass of Options its parameters, inherited ones included."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Read all fields, then write the lists, as a class may inherit fields from any module."""
        found = [one for one in classes(pkg) if any(base.path == OPTIONS for base in one.mro())]
        meanings = {one.path: read_fields(one) for one in found}
        for one in found:
            family = [*reversed(one.mro()), one]
            fields = {name: text for member in family for name, text in meanings.get(member.path, {}).items()}
            if fields and one.docstring is not None:
                lines = [f"    {name}: {text}" for name, text in fields.items()]
                one.docstring.value = "\n".join([one.docstring.value, "", "Args:", *lines])


def classes(parent: griffe.Module | griffe.Class) -> list[griffe.Class]:
    """All classes that are defined below a module."""
    found = []
    for member in parent.members.values():
        if isinstance(member, griffe.Class):
            found.append(member)
        if isinstance(member, griffe.Module | griffe.Class):
            found += classes(member)
    return found


def read_fields(options: griffe.Class) -> dict[str, str]:
    """The meaning of every field that the class itself has; its value becomes the default alone."""
    fields = {}
    for field in options.attributes.values():
        if field.is_alias or field.annotation is None:
            continue
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
        fields[field.name] = text
    return fields
