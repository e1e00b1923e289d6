"""What a run's features do on held-out text, gathered for the layouts that hold it."""

import numpy as np

from vasae_jax.dictionary.dictionary import Dictionary
from vasae_jax.evaluation.examples.collect import BEFORE, TOP
from vasae_jax.evaluation.examples.gather import gather
from vasae_jax.evaluation.neighbours import logit_lens_tokens
from vasae_jax.evaluation.publish import publish
from vasae_jax.evaluation.run import SPLIT, NamesBy
from vasae_jax.interop.activity import Activity
from vasae_jax.interop.delphi import Latents, make_latents
from vasae_jax.interop.folders import FROM_ACTIVITY, FROM_LATENTS
from vasae_jax.names.firings import FiringObserver
from vasae_jax.training.run import Run
from vasae_jax.utils.errors import UserError

LOGITS = 8
"""Tokens raised, and tokens lowered, of each feature."""


def run_files(run: Run, layout: str, by: NamesBy) -> tuple[Dictionary, dict[str, bytes]]:
    """A run's dictionary, and the files of ``layout`` by path.

    Args:
        run: a trained run.
        layout: one of :data:`vasae_jax.interop.folders.WRITTEN`.
        by: how layer names are chosen.

    Raises:
        UserError: a damaged cache, one without held-out rows, or one whose rows are no text.
    """
    check_text(run)
    dictionary, _, observer = publish(run, by)
    if layout in FROM_LATENTS:
        return dictionary, FROM_LATENTS[layout](dictionary, latents(run, observer))
    return dictionary, FROM_ACTIVITY[layout](dictionary, activity(run, dictionary))


def check_text(run: Run) -> None:
    """Raise UserError if held-out rows stand alone, each without the text around it."""
    if (_positions(run) < 0).any():
        raise UserError(
            f"{run.cache.url} has rows without the windows that they come from; expected text"
        )


def latents(run: Run, observer: FiringObserver) -> Latents:
    """The firings that ``observer`` saw, and the text; a BOS before each window is left out."""
    firings, manifest = observer.firings(), run.cache.manifest
    return make_latents(
        observer.row_tokens().token,
        firings.row,
        firings.feature,
        firings.activation,
        kept=observer.seen & ~((_positions(run) == 0) & manifest.bos),
        longest=manifest.context_length,
    )


def activity(run: Run, dictionary: Dictionary) -> Activity:
    """Examples of where each feature fires, and the tokens that it raises and lowers."""
    gathered, cache = gather(run, SPLIT), run.cache
    lens = logit_lens_tokens(dictionary.W_dec, cache.final_norm(), cache.unembedding(), LOGITS)
    examples = gathered.examples
    return Activity(
        vocab=cache.vocab(),
        tokens=examples.tokens,
        shade=examples.shade,
        value=examples.value,
        fires_at=BEFORE,
        top=TOP,
        histogram=gathered.histogram,
        raised=lens.raised,
        raised_by=lens.raised_by,
        lowered=lens.lowered,
        lowered_by=lens.lowered_by,
    )


def _positions(run: Run) -> np.ndarray:
    column = run.cache.column("positions", SPLIT)
    return np.asarray(column.read(0, run.cache.rows(SPLIT)))
