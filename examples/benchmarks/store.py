"""Finished runs as JSON lines: what makes the suite resumable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Record = dict[str, Any]
KEY = ("problem", "contender", "seed", "setting", "budget", "threads")


def key(record: Record) -> str:
    """What identifies a run: two records of one key are repetitions of the same run."""
    return json.dumps([record[name] for name in KEY], sort_keys=True)


class Store:
    """The runs of one folder, appended to its ``runs.jsonl`` one by one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "runs.jsonl"
        self.records: dict[str, Record] = {}
        if self.path.exists():
            text = self.path.read_text()
            if text and not text.endswith("\n"):  # what comes next must not join a cut-off line
                self.path.write_text(text + "\n")
            for line in text.splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:  # the line on which an interruption fell
                    continue
                self.records[key(record)] = record

    def find(self, request: Record) -> Record | None:
        return self.records.get(key(request))

    def add(self, record: Record) -> None:
        self.records[key(record)] = record
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def forget(self, contenders: set[str]) -> int:
        """Drop all runs of these contenders, to run them anew; returns how many."""
        kept = {k: r for k, r in self.records.items() if r["contender"] not in contenders}
        dropped = len(self.records) - len(kept)
        self.records = kept
        text = "".join(json.dumps(record) + "\n" for record in kept.values())
        self.path.write_text(text)
        return dropped
