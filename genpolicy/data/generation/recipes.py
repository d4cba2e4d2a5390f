"""The published settings with which each OGBench dataset was collected.

Source: ``data_gen_scripts/commands.sh`` and the two scripts beside it in the public repository
``seohongpark/ogbench`` (MIT licence). Only facts are taken over: names, lengths, noise levels.
"""

from dataclasses import dataclass

from genpolicy.errors import ConfigError, suggest

DOWNLOAD_URL = "https://rail.eecs.berkeley.edu/datasets/ogbench"


@dataclass(frozen=True)
class Recipe:
    """How one dataset is collected; everything except the seed and the number of episodes.

    Attributes:
        name: dataset name, the stem of the npz file.
        environment: gymnasium id that ``import ogbench`` registers.
        behaviour: ``navigate`` and ``stitch`` (mazes), ``play`` and ``noisy`` (manipulation).
        episode_steps: published rows per episode; the last row is a state whose action has no successor.
        noise: standard deviation of the action noise (mazes), noise level of the plan (``play``), or largest
            action-noise level of an episode (``noisy``).
        random_action: probability that a step takes a uniform random action (``noisy`` only).
        stacking: range from which an episode's probability of stacking one cube on another is drawn.
    """

    name: str
    environment: str
    behaviour: str
    episode_steps: int
    noise: float
    random_action: float = 0.0
    stacking: tuple[float, float] = (0.5, 0.5)

    @property
    def scene(self) -> str:
        """The environment's name without how it is observed."""
        return self.environment.removeprefix("visual-")

    @property
    def pixels(self) -> bool:
        """Whether observations are images, which must be rendered."""
        return self.scene != self.environment


_STACKING = {"single": (0.0, 0.0), "double": (0.0, 0.25), "triple": (0.05, 0.35), "quadruple": (0.1, 0.5)}


def _all_recipes() -> dict[str, Recipe]:
    recipes = []
    for maze in ("medium", "large", "giant", "teleport"):
        for behaviour, rows in (("navigate", 2001 if maze == "giant" else 1001), ("stitch", 201)):
            name = f"pointmaze-{maze}-{behaviour}-v0"
            recipes.append(Recipe(name, f"pointmaze-{maze}-v0", behaviour, rows, noise=0.5))
    scenes = [(f"cube-{count}", 0.1, stacking) for count, stacking in _STACKING.items()]
    scenes += [("scene", 0.1, (0.5, 0.5))]
    scenes += [(f"puzzle-{size}", 0.2, (0.5, 0.5)) for size in ("3x3", "4x4", "4x5", "4x6")]
    for scene, random_action, stacking in scenes:
        for behaviour, probability in (("play", 0.0), ("noisy", random_action)):
            name = f"{scene}-{behaviour}-v0"
            for prefix in ("", "visual-"):
                settings = behaviour, 1001, 0.1, probability, stacking
                recipes.append(Recipe(f"{prefix}{name}", f"{prefix}{scene}-v0", *settings))
    return {recipe.name: recipe for recipe in recipes}


RECIPES = _all_recipes()


def get_recipe(name: str) -> Recipe:
    """The recipe of the dataset called `name`.

    Raises:
        ConfigError: for a dataset that cannot be generated (why, and what to do instead) or an unknown name.
    """
    if name in RECIPES:
        return RECIPES[name]
    family = name.removeprefix("visual-").split("-")[0]
    if family in ("antmaze", "humanoidmaze", "antsoccer"):
        robot = "humanoid" if family == "humanoidmaze" else "ant"
        raise ConfigError(
            f"The dataset '{name}' cannot be generated: it was collected with a pre-trained low-level "
            f"policy for the {robot}, which the ogbench package does not contain. Download it instead: "
            f"{DOWNLOAD_URL}/{name}.npz and {DOWNLOAD_URL}/{name}-val.npz, saved in your data directory "
            "under these names."
        )
    raise ConfigError(
        f"No dataset called '{name}' can be generated.{suggest(name, RECIPES)} "
        f"Names that can: {', '.join(sorted(RECIPES))}."
    )
