"""How each exporter spells the composite operations, one topic per file, and the tools to recognise them."""
