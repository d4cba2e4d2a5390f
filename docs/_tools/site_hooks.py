"""Links from the API pages into the documentation of torch, Gymnasium, NumPy and Python, without a network.

mkdocstrings downloads inventories and keeps them for a day; these come from ``docs/_inventories`` in every build.
``inventories.py`` says where they are from.
"""

from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocstrings import Inventory

INVENTORIES = Path(__file__).parents[1] / "_inventories"
SITES = {
    "gymnasium": "https://gymnasium.farama.org/",
    "jaxtyping": "https://docs.kidger.site/jaxtyping/",
    "numpy": "https://numpy.org/doc/stable/",
    "python": "https://docs.python.org/3.11/",
    "torch": "https://docs.pytorch.org/docs/stable/",
}


@event_priority(50)  # before references are resolved
def on_env(env: Any, config: MkDocsConfig, **_: Any) -> None:
    """Tell the plugin that resolves references where the names of other libraries are documented."""
    references: Any = config.plugins["autorefs"]
    for library, site in SITES.items():
        with (INVENTORIES / f"{library}.inv").open("rb") as file:
            for name, item in Inventory.parse_sphinx(file, domain_filter=("py",)).items():
                references.register_url(name, site + item.uri)
