"""All that is measured of names, as JSON and as a table."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from vasae_jax.evaluation.names.holds import Held, held_table
from vasae_jax.evaluation.names.inputs import InputRelation
from vasae_jax.evaluation.names.relation import Share, TopShares
from vasae_jax.evaluation.names.stability import Stability


@dataclass(frozen=True)
class NameWorth:
    """What a run's names are worth; a measure that was not asked for is None."""

    anchor: str
    """What the names refer to."""
    rows: int
    """Unmasked rows over which it was watched what fires."""
    layer: tuple[Held, ...]
    """What layer names hold, over all firing features first."""
    inputs: InputRelation
    direct: TopShares
    output: TopShares | None = None
    """Needs the language model."""
    output_before: TopShares | None = None
    """The same for features whose layer names say *before*, by the first of these names."""
    stability: Stability | None = None
    """Needs another run."""
    against: str | None = None
    """That other run."""

    def to_json(self) -> dict[str, Any]:
        """A JSON value without what was not measured."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def table(self) -> str:
        """Readable tables: layer names, and names by embeddings beside shuffled ones."""
        tables = [held_table(self.layer, self.rows)]
        if self.output_before is not None:
            tables.append(_beside("layer names that say before", _lowered(self.output_before)))
        head = f"names by {self.anchor}, over {self.rows} unmasked rows"
        return "\n\n".join([*tables, _beside(head, self._lines())])

    def _lines(self) -> Iterator[tuple[str, str, str]]:
        inputs = self.inputs
        yield f"activation of {inputs.features} firing features, mean share", "", ""
        yield _line(f"  at one of its {inputs.names} names", inputs.at)
        yield _line(f"  just before one of its {inputs.names} names", inputs.just_before)
        yield f"its row through the head, {self.direct.features} firing features", "", ""
        yield from _tops(self.direct, "raised")
        if self.output is not None:
            yield from _lowered(self.output)
        if self.stability is not None:
            same = self.stability
            yield f"found again among {same.candidates} firing features of {self.against}", "", ""
            yield _line("  its nearest by decoder cosine has the same name", same.same_name)
            yield "  mean cosine to the nearest", f"{same.mean_max_cosine:.3f}", ""


def _beside(head: str, lines: Iterator[tuple[str, str, str]]) -> str:
    """A table of what names reach and what shuffled ones do."""
    table = [(head, "named", "shuffled"), *lines]
    width = max(len(line[0]) for line in table)
    return "\n".join(f"{a:<{width}}  {b:>12}  {c:>12}".rstrip() for a, b, c in table)


def _lowered(found: TopShares) -> Iterator[tuple[str, str, str]]:
    yield f"taken from {found.rows} rows, {found.features} firing features", "", ""
    yield from _tops(found, "lowered")


def _tops(found: TopShares, how: str) -> Iterator[tuple[str, str, str]]:
    yield _line(f"  its name is the token {how} most", found.top1)
    yield _line(f"  its name is among the five {how} most", found.top5)


def _line(head: str, share: Share) -> tuple[str, str, str]:
    return head, f"{share.named:.2%}", f"{share.shuffled:.3%}"
