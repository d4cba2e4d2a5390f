"""Writes the small inventories in ``docs/_inventories``: which page of another project documents which name.

``python.inv`` is the whole inventory of Python 3.11, as Debian's package python3.11-doc ships it. The other projects
publish theirs on their sites only; those here are written by hand and hold the names that the signatures and docstrings
of this library use, with the addresses of the public pages. A new name goes into the table below, then

    python docs/_tools/inventories.py
"""

from pathlib import Path

from mkdocstrings import Inventory, InventoryItem

FOLDER = Path(__file__).parents[1] / "_inventories"

# library -> page -> names; a name stands on its page under an anchor of the same name
PAGES: dict[str, dict[str, list[str]]] = {
    "torch": {
        "tensors.html": ["torch.Tensor"],
        "tensor_attributes.html": ["torch.device", "torch.dtype"],
        "generated/torch.Generator.html": ["torch.Generator"],
        "generated/torch.compile.html": ["torch.compile"],
        "generated/torch.nn.Linear.html": ["torch.nn.Linear"],
        "generated/torch.nn.Module.html": ["torch.nn.Module"],
        "generated/torch.func.jvp.html": ["torch.func.jvp"],
        "generated/torch.func.vmap.html": ["torch.func.vmap"],
    },
    "gymnasium": {
        "api/env/": ["gymnasium.Env"],
        "api/wrappers/": ["gymnasium.Wrapper"],
        "api/vector/async_vector_env/": ["gymnasium.vector.AsyncVectorEnv"],
        "api/registry/": ["gymnasium.make", "gymnasium.register"],
    },
    "numpy": {
        "reference/generated/numpy.ndarray.html": ["numpy.ndarray"],
        "reference/generated/numpy.dtype.html": ["numpy.dtype"],
        "reference/typing.html": ["numpy.typing.NDArray"],
        "reference/random/generator.html": ["numpy.random.Generator"],
        "reference/random/bit_generators/generated/numpy.random.SeedSequence.html": ["numpy.random.SeedSequence"],
    },
}
# names that have no anchor of their own on a page, or stand there under another name
ALIASES: dict[str, dict[str, list[str]]] = {
    "torch": {
        "generated/torch.nn.parameter.Parameter.html#torch.nn.parameter.Parameter": ["torch.nn.Parameter"],
    },
    "jaxtyping": {
        "api/array/": [f"jaxtyping.{name}" for name in ("Float", "Float32", "Int", "Int64", "Shaped", "UInt8")],
    },
}


def inventory(library: str) -> Inventory:
    """The inventory of one library."""
    anchored = {name: f"{page}#{name}" for page, names in PAGES.get(library, {}).items() for name in names}
    shared = {name: page for page, names in ALIASES.get(library, {}).items() for name in names}
    items = [InventoryItem(name=name, domain="py", role="obj", uri=uri) for name, uri in (anchored | shared).items()]
    return Inventory(items, project=library, version="stable")


if __name__ == "__main__":
    for library in sorted(PAGES | ALIASES):
        (FOLDER / f"{library}.inv").write_bytes(inventory(library).format_sphinx())
