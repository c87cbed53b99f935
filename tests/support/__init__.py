"""What the tests are built from: sandboxes with their own network, traffic, an address plan, real runtimes."""
