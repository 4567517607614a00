"""What keeps a run alive: processes, signals, leases, stalls, versions."""
