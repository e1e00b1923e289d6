"""What to cite for the names."""

REFERENCE = (
    "Kairui Zhang, Ziwen Yu, Zahraa S. Abdallah and Martha Lewis. VASAE: Naming SAE Dictionary "
    "Directions with Vocabulary-Aligned Anchoring. 2026. arXiv:2606.27941."
)
BIBTEX = """@misc{zhang2026vasae,
  title         = {VASAE: Naming SAE Dictionary Directions with Vocabulary-Aligned Anchoring},
  author        = {Zhang, Kairui and Yu, Ziwen and Abdallah, Zahraa S. and Lewis, Martha},
  year          = {2026},
  eprint        = {2606.27941},
  archivePrefix = {arXiv}
}"""
