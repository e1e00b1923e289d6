"""The command line ``vasae VERB``, one module for each verb."""
