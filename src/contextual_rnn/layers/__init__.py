"""Networks and layers: fast weights, attention, context networks, losses."""
