"""Symbolic dynamics: sequences of symbols, their graph of transitions, words that never occur, topological entropy."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

Word = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class SymbolicCode:
    """Sequences written in symbols 0, 1, ... by falling frequency.

    `sequences` are the symbols over time, one array a sequence; `patterns` says of each symbol which units were active;
    `frequencies` are shares of all samples.
    """

    sequences: tuple[np.ndarray, ...]
    patterns: Bool[np.ndarray, "symbol unit"]
    frequencies: Float[np.ndarray, " symbol"]

    @property
    def symbols(self) -> int:
        """How many symbols occur."""
        return len(self.frequencies)

    @property
    def transitions(self) -> Int[np.ndarray, "symbol symbol"]:
        """How often a symbol (row) was followed by another (column)."""
        counts = np.zeros((self.symbols, self.symbols), dtype=np.int64)
        for each in self.sequences:
            np.add.at(counts, (each[:-1], each[1:]), 1)
        return counts

    def words(self, length: int) -> frozenset[Word]:
        """The words of that length that occur."""
        return frozenset(
            tuple(word.tolist())
            for each in self.sequences
            if len(each) >= length
            for word in np.unique(np.lib.stride_tricks.sliding_window_view(each, length), axis=0)
        )

    def forbidden(self, longest: int) -> tuple[Word, ...]:
        """The minimal words of up to that length which never occur: all their parts do."""
        occurring = [frozenset([()]), *(self.words(length) for length in range(1, longest + 1))]
        found: list[Word] = []
        for length in range(2, longest + 1):
            for word, last in itertools.product(sorted(occurring[length - 1]), range(self.symbols)):
                longer = (*word, last)
                if longer not in occurring[length] and longer[1:] in occurring[length - 1]:
                    found.append(longer)
        return tuple(found)

    def entropy(self, length: int = 2) -> float:
        """Topological entropy a step of the shift in which every word of that length occurs that occurs here.

        It is the logarithm of the largest eigenvalue of the graph whose nodes are the words one shorter, and falls with
        `length` towards that of the system (Lind and Marcus, Symbolic Dynamics and Coding, chapter 4), as long as the
        sequences are long enough to hold every word.
        """
        nodes = {word: index for index, word in enumerate(sorted(self.words(length - 1)))}
        graph = np.zeros((len(nodes), len(nodes)))
        for word in self.words(length):
            graph[nodes[word[:-1]], nodes[word[1:]]] = 1.0
        radius = float(np.abs(np.linalg.eigvals(graph)).max()) if len(graph) else 0.0
        return float(np.log(radius)) if radius > 0 else -np.inf

    def condensed(self) -> SymbolicCode:
        """The code with repetitions of a symbol left out: which regions follow each other, whatever time they take."""
        kept = tuple(each[np.append(True, each[1:] != each[:-1])] for each in self.sequences)
        counts = np.bincount(np.concatenate(kept), minlength=self.symbols)
        return SymbolicCode(kept, self.patterns, counts / counts.sum())


def symbolic_code(patterns: Sequence[Bool[np.ndarray, "time unit"]]) -> SymbolicCode:
    """The code of sequences of patterns of active units, one symbol for each pattern that occurs."""
    stacked = np.concatenate(list(patterns))
    unique, symbols, counts = np.unique(stacked, axis=0, return_inverse=True, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    ends = np.cumsum([len(each) for each in patterns])[:-1]
    sequences = tuple(np.split(rank[symbols.reshape(-1)], ends))
    return SymbolicCode(sequences, unique[order], counts[order] / len(stacked))
