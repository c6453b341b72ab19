"""The theatre: scripts with exact truth, their staging, their language and their exact judge."""
