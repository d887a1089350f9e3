"""What the VM tier (tests/vm/run) and the benchmark (tests/bench/run) share."""
