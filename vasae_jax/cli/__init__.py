"""The command line, ``vasae VERB``: thin, every verb calls one function of a room."""
