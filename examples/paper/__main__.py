"""Run the scripts, or those named by their letters, and write the table into README.md.

python -m examples.paper [a b ...]
"""

from __future__ import annotations

import argparse
import importlib
import json

import torch

from .report import FOLDER, PICTURES, Claim, run

SCRIPTS = (
    "a_definiteness", "b_spectra", "c_frequencies", "d_movement",
    "e_kernel_limit", "f_trajectory", "g_training", "h_gauss_newton",
)  # fmt: skip
START, END = "<!-- table -->", "<!-- end of table -->"


def table() -> str:
    """All claims that have been measured, one section a script."""
    parts = []
    for name in SCRIPTS:
        path = PICTURES / f"{name}.json"
        if path.exists():
            record = json.loads(path.read_text())
            rows = [Claim(**claim).row() for claim in record["claims"]]
            parts += [
                f"### ({name[0]}) {record['title']}",
                "| claim | measured | expected | holds |\n| --- | --- | --- | --- |\n"
                + "\n".join(rows),
                f"![{record['title']}](pictures/{name}.png)",
            ]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    letters = [name[0] for name in SCRIPTS]
    parser.add_argument("letters", nargs="*", default=letters, help="which scripts; all if none")
    chosen = parser.parse_args().letters
    if unknown := set(chosen) - set(letters):
        parser.error(f"no script {', '.join(sorted(unknown))}: choose from {' '.join(letters)}")
    torch.set_num_threads(min(2, torch.get_num_threads()))
    for name in SCRIPTS:
        if name[0] in chosen:
            script = importlib.import_module(f".{name}", __package__)
            run(name, script.TITLE, script.measure)
    page = FOLDER / "README.md"
    before, rest = page.read_text().split(START)
    after = rest.split(END)[1]
    page.write_text(f"{before}{START}\n\n{table()}\n\n{END}{after}")
    print(f"table: {page}")


if __name__ == "__main__":
    main()
