"""Rewrite rules: pattern, check, replace.

`check` says why a place that fits must be left alone. Places that nearly fit are remembered with the reason,
because "why didn't it fuse?" is what people ask of fusions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from torch import fx

from optcc.ir.builder import Builder
from optcc.ir.module import Module, source_of
from optcc.ir.pattern import Either, Match, Miss, Op, match
from optcc.ir.text import target_name

Replacement = fx.Node | Mapping[str, fx.Node] | None


def always(match: Match) -> str | None:
    """The check of a rule that needs none."""
    return None


@dataclass(frozen=True)
class Rule:
    """One rewrite.

    Attributes:
        name: short, for reports. pattern: what to look for. replace: builds the replacement; a node replaces
        the root, a mapping replaces the nodes bound to its keys
            (`root` is the root). None leaves the place alone.
        check: returns why a place that fits must be left alone, or None.
        quiet: a clean-up; nobody asks why it didn't apply, so it has no near misses.
    """

    name: str
    pattern: Op
    replace: Callable[[Match, Builder], Replacement]
    check: Callable[[Match], str | None] = always
    quiet: bool = False


def cleanups(*rules: Rule) -> tuple[Rule, ...]:
    """The same rules without near misses."""
    return tuple(replace(rule, quiet=True) for rule in rules)


@dataclass(frozen=True)
class NearMiss:
    """A place where a rule nearly applied."""

    rule: str
    node: str
    reason: str
    source: str | None
    depth: int


@dataclass
class RewriteLog:
    """What a set of rules did: hits per rule, and the near misses."""

    hits: dict[str, int] = field(default_factory=dict)
    misses: list[NearMiss] = field(default_factory=list)

    def merge(self, other: RewriteLog) -> None:
        """Add another log's entries to this one."""
        for rule, count in other.hits.items():
            self.hits[rule] = self.hits.get(rule, 0) + count
        self.misses.extend(other.misses)


def apply_rules(module: Module, rules: tuple[Rule, ...]) -> RewriteLog:
    """Apply rules at every node, in graph order, one sweep, first rule that fits; dead nodes are erased.

    A rule's near misses count only where no rule applied in the end and at least half of its operators
    fitted. A sweep in which no rule applied leaves the module as it was, dead nodes included.
    """
    log = RewriteLog({rule.name: 0 for rule in rules})
    missed: dict[tuple[str, str], NearMiss] = {}
    for graph in module.graphs.values():
        for node in list(graph.nodes):
            if node.op == "call_function" and not _erased(node):
                _apply_at(module, node, rules, log, missed)
    if any(log.hits.values()):
        module.tidy()
    log.misses = list(missed.values())
    return log


def _erased(node: fx.Node) -> bool:
    return bool(node._erased)


def _apply_at(
    module: Module,
    node: fx.Node,
    rules: tuple[Rule, ...],
    log: RewriteLog,
    missed: dict[tuple[str, str], NearMiss],
) -> None:
    misses: list[tuple[Rule, Miss]] = []
    called = target_name(node)
    for rule in rules:
        if called not in rule.pattern.targets:
            continue
        miss = Miss()
        found = match(rule.pattern, node, miss)
        if found is None:
            misses.append((rule, miss))
            continue
        if why := rule.check(found):
            misses.append((rule, Miss(len(found.nodes), why, node)))
            continue
        if _replace(module, rule, found):
            log.hits[rule.name] += 1
            return
    for rule, miss in misses:
        if rule.quiet:
            continue
        size = operators(rule.pattern)
        if (miss.depth * 2 > size and miss.depth > 1) or miss.depth == size:
            place = (rule.name, node.name)
            missed[place] = NearMiss(*place, miss.reason, source_of(node), miss.depth)


def _replace(module: Module, rule: Rule, found: Match) -> bool:
    result = rule.replace(found, Builder(module, found.root))
    if result is None:
        return False
    replaced = {"root": result} if isinstance(result, fx.Node) else dict(result)
    for name, new in replaced.items():
        old = found.root if name == "root" else found.node(name)
        # The replacement may read what it replaces (add_rms_norm keeps the sum); its own operands stay.
        old.replace_all_uses_with(new, delete_user_cb=partial(operator.is_not, new))
    for old in found.nodes:
        if not old.users and not old._erased and old.op == "call_function":
            old.graph.erase_node(old)
    return True


def operators(pattern: object) -> int:
    """How many operators a pattern holds; of alternatives, the fewest."""
    if isinstance(pattern, Op):
        return 1 + sum(operators(a) for a in pattern.args)
    if isinstance(pattern, Either):
        return min(operators(o) for o in pattern.options)
    return sum(operators(p) for p in pattern) if isinstance(pattern, list) else 0
