"""Names for parts: one typed registry class for heads, critics, policies, backbones and encoders.

A part registers itself by decorator, together with the frozen dataclass of its hyperparameters::

    @HEADS.register("my_head", config=MyHeadConfig)
    class MyHead(GenerativeHead): ...

A package elsewhere does the same and names its module in an entry point of the group ``genpolicy.heads``
(``genpolicy.critics``, ``genpolicy.policies``, ``genpolicy.backbones``, ``genpolicy.encoders``); it is imported on the
first look-up.
"""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar, cast

from genpolicy.errors import ConfigError, suggest
from genpolicy.options import Options

T = TypeVar("T")
C = TypeVar("C")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One registered part: its name, its class and the dataclass of its hyperparameters."""

    name: str
    cls: type[T]
    config: type[Options]

    @property
    def summary(self) -> str:
        """The first sentence of the part's docstring."""
        doc = inspect.cleandoc(self.cls.__doc__ or "")
        return doc.split("\n\n")[0].replace("\n", " ").strip()


class Registry(Generic[T]):
    """A table from names to parts of one kind.

    Args:
        kind: the singular name of the kind, used in messages and as the configuration group ("head").
        plural: the plural name, used by the command line and for the entry-point group ("heads").
    """

    def __init__(self, kind: str, plural: str):
        self.kind = kind
        self.plural = plural
        self._entries: dict[str, Entry[T]] = {}
        self._loaded_entry_points = False

    def register(self, name: str, *, config: type[Options] | None = None) -> Callable[[type[C]], type[C]]:
        """Return a class decorator that stores the class under `name`.

        Args:
            name: what users write, as in ``head=my_head``; lower case with underscores.
            config: the frozen dataclass of hyperparameters that the class takes as its first argument. It belongs
                to this part alone, so that an instance of it says which part is meant; subclass it to share fields.
                A part without hyperparameters leaves it out.

        Raises:
            ConfigError: if the name or `config` is taken by another class, `config` is not a frozen dataclass derived
                from `Options`, or the class lacks a method that its base class asks for.
        """
        if config is None:  # a class of its own, so that the part can be found by its options
            config = dataclasses.make_dataclass(
                f"{name.title().replace('_', '')}Config", [], bases=(Options,), frozen=True
            )
        if not (isinstance(config, type) and issubclass(config, Options) and _is_frozen_dataclass(config)):
            raise ConfigError(
                f"The config of {self.kind} '{name}' must be a frozen dataclass derived from Options, "
                f"got {config!r}. Write: @dataclass(frozen=True) class MyConfig(Options)."
            )

        def decorate(cls: type[C]) -> type[C]:
            if missing := sorted(getattr(cls, "__abstractmethods__", ())):
                raise ConfigError(
                    f"The {self.kind} '{name}' ({_qualified(cls)}) lacks {', '.join(missing)}; write them."
                )
            for old in self._entries.values():
                if _qualified(old.cls) == _qualified(cls) and old.name == name:
                    continue  # the same class again, as when a notebook cell is run twice
                if old.name == name:
                    raise ConfigError(
                        f"The {self.kind} name '{name}' is taken by {_qualified(old.cls)}. "
                        f"Register {_qualified(cls)} under another name."
                    )
                if old.config is config:
                    raise ConfigError(
                        f"{config.__name__} is the config of {self.kind} '{old.name}' already. "
                        f"Give '{name}' a dataclass of its own; subclass {config.__name__} to share its fields."
                    )
            self._entries[name] = Entry(name, cast("type[T]", cls), config)
            return cls

        return decorate

    def find(self, options: Options) -> Entry[T]:
        """The entry whose hyperparameters `options` is an instance of.

        Raises:
            ConfigError: if no part of this kind takes such options.
        """
        for entry in self.entries():
            if entry.config is type(options):
                return entry
        raise ConfigError(
            f"No {self.kind} takes {type(options).__name__}. "
            f"Known: {', '.join(f'{entry.config.__name__} ({entry.name})' for entry in self.entries())}."
        )

    def create(self, options: Options, **arguments: Any) -> T:
        """Build the part that `options` belongs to.

        Args:
            options: its hyperparameters, as in ``HEADS.create(MeanFlowConfig(time_steps=50), ...)``.
            arguments: the keyword arguments of the part's constructor.
        """
        return cast(Any, self.find(options).cls)(options, **arguments)

    def __getitem__(self, name: str) -> Entry[T]:
        """The entry called `name`.

        Raises:
            ConfigError: if nothing is registered under that name; the message lists the nearest names.
        """
        self._load()
        try:
            return self._entries[name]
        except KeyError:
            raise ConfigError(
                f"Unknown {self.kind} '{name}'.{suggest(name, self._entries)} "
                f"Registered {self.plural}: {', '.join(self.names())}."
            ) from None

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def names(self) -> list[str]:
        """All registered names, sorted."""
        self._load()
        return sorted(self._entries)

    def entries(self) -> list[Entry[T]]:
        """All entries, sorted by name."""
        return [self[name] for name in self.names()]

    def _load(self) -> None:
        """Import our own parts and those that other packages announce by entry point, once."""
        if self._loaded_entry_points:
            return
        self._loaded_entry_points = True
        import genpolicy.parts  # noqa: F401  registers the built-in parts

        for point in entry_points(group=f"genpolicy.{self.plural}"):
            try:
                point.load()
            except Exception as error:
                self._loaded_entry_points = False
                raise ConfigError(
                    f"The entry point '{point.name} = {point.value}' of group 'genpolicy.{self.plural}' "
                    f"could not be imported: {error}. Repair or uninstall the package "
                    f"'{point.dist.name if point.dist else '?'}'."
                ) from error


def _is_frozen_dataclass(cls: type) -> bool:
    return dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen  # type: ignore[attr-defined]


def _qualified(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


BACKBONES: Registry = Registry("backbone", "backbones")
"""Networks inside heads."""
ENCODERS: Registry = Registry("encoder", "encoders")
"""Networks that make a vector of an image."""
HEADS: Registry = Registry("head", "heads")
"""How actions are generated."""
CRITICS: Registry = Registry("critic", "critics")
"""How values are learned."""
POLICIES: Registry = Registry("policy", "policies")
"""How the critic improves the head, and how the improved head acts."""
