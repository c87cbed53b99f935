"""Measures the dataplane through the same doors that its users take."""
