"""Write the table of docs/parity.md: how far this library is from the stored numbers of each parity case.

Run it in the root of a checkout: ``python docs/_tools/parity_table.py``; GENPOLICY_PARITY_DIR says where the cases are.
"""

import sys
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.parity import meanflowql, reformulations
from tests.parity.cases import Case, find_cases

STAGES = {
    "meanflowql": [
        ("values", meanflowql.check_expected),
        ("gradients", meanflowql.check_gradients),
        ("losses in 3 updates", meanflowql.check_three_updates),
        ("acting", meanflowql.check_acting),
    ],
    "meanflowql schedules": [("schedules", meanflowql.check_schedules)],
    "meanflow reformulation": [("values", reformulations.check_reformulation)],
}
STAGES["meanflowql (pretrain step: flow loss only)"] = STAGES["meanflowql"]


Row = tuple[float, float, float]
"""Share of the allowance, difference and allowance where an array deviates most, relative to what is allowed."""


class MeasuredCase(Case):
    """A case that measures what its checks compare."""

    def measure(self) -> dict[str, list[Row]]:
        """Run all checks and return a row per compared array, by group of quantities."""
        rows: dict[str, list[Row]] = defaultdict(list)
        known: set[str] = set()
        for stage, run in STAGES[self.algorithm]:

            def note(kind: str, name: str, actual: Tensor, expected: Tensor, stage: str = stage) -> None:
                group = {"grads": "gradients", "after": "parameters after 3 updates"}.get(kind, stage)
                if kind == "after" and name not in known:
                    known.add(name)
                    group = "parameters after 1 update"
                rows[group].append(self.deviation(kind, name, actual.detach().double(), expected.double()))

            self.__dict__["check"] = note  # stands before the method of the frozen dataclass
            run(self)
        return rows

    def deviation(self, kind: str, name: str, actual: Tensor, expected: Tensor) -> Row:
        """Compare one array by the rule of `Case.check`."""
        Case.check(self, kind, name, actual, expected)
        tolerance = self.info["suggested_tolerance"]
        tolerance = tolerance.get(kind, tolerance)
        atol = tolerance.get("atol_per_array", {}).get(name, tolerance["atol"])
        scale = expected.abs().clamp(min=1.0)
        if kind == "grads":
            scale = expected.abs().max().clamp(min=1.0)
        allowed = (atol * scale + tolerance["rtol"] * expected.abs()).flatten()
        difference = (actual - expected).abs().flatten()
        worst = int((difference / allowed).argmax())
        return (
            float(difference[worst] / allowed[worst]),
            float(difference[worst]),
            float(allowed[worst]),
        )


def main() -> None:
    """Print the table in Markdown."""
    torch.set_num_threads(1)
    lines = ["| case | quantities | arrays | largest difference | allowed there | share |", "|---|---|---|---|---|---|"]
    for case in find_cases():
        if case.algorithm not in STAGES:
            continue
        for group, rows in MeasuredCase(case.path).measure().items():
            share, difference, allowed = max(rows)
            lines.append(f"| `{case.name}` | {group} | {len(rows)} | {difference:.1e} | {allowed:.1e} | {share:.0%} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
