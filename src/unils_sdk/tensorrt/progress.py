"""The builder's own account of how far it is, as one number."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0
    children: list[str] = field(default_factory=list)


class Phases:
    """Nested phases of a build, as TensorRT's IProgressMonitor tells them, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, _Phase] = {}

    def start(self, name: str, parent: str | None, steps: int) -> float:
        """A phase of so many steps begins, inside of another or by itself. Returns how far its root is, 0 to 1."""
        with self._lock:
            self._open[name] = _Phase(parent if parent in self._open else None, max(1, steps))
            if parent in self._open:
                self._open[parent].children.append(name)
            return self._root_fraction(name)

    def step(self, name: str, step: int) -> float:
        """Step `step`, counted from 0, of a phase is done."""
        with self._lock:
            if name not in self._open:
                return 0.0
            phase = self._open[name]
            phase.done = max(phase.done, min(step + 1, phase.steps))
            return self._root_fraction(name)

    def finish(self, name: str) -> float:
        """A phase is over, whether or not all of its steps were told."""
        with self._lock:
            phase = self._open.get(name)
            if phase is None:
                return 0.0
            phase.done = phase.steps
            fraction = self._root_fraction(name)
            del self._open[name]
            if phase.parent in self._open:
                self._open[phase.parent].children.remove(name)
            return fraction

    def _root_fraction(self, name: str) -> float:
        while (parent := self._open[name].parent) in self._open:
            name = parent
        return self._fraction(name)

    def _fraction(self, name: str) -> float:
        phase = self._open[name]
        # The children of a phase share the step that it is in.
        inside = max((self._fraction(child) for child in phase.children if child in self._open), default=0.0)
        return min(1.0, (phase.done + inside) / phase.steps)
