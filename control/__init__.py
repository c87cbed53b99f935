"""Decides: what should exist for the attachments, and what must change for that. Also the engine, the agent and dpctl.

This package speaks *containers* (network, attachment, port mapping). ``model``, ``conditions``, ``ruleset``, ``hooks``,
``planner``, ``wire`` and ``checksum`` are pure: values in, values out.
"""
