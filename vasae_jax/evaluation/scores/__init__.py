"""The field's scores of names: input score, output score, and a matching game without a model."""
