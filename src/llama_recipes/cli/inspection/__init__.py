"""What a run would train, shown before it trains: found, then written for each who reads it."""
